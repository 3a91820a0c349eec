from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from derta.attacks import ATTACKS, build_attack
from derta.attacks.static.best_of_n import add_noise, augment, scramble, swap_cases
from derta.errors import RecipeError
from derta.records import Message, Request

TEXTS = st.text(max_size=60)
SEEDS = st.integers(0, 999)
CHANCES = st.floats(0, 1)


@given(TEXTS, SEEDS, CHANCES)
def test_scrambling_keeps_white_space_and_the_ends_and_letters_of_each_word(text, seed, probability):
    result = scramble(text, Random(seed), probability=probability)
    assert [c if c.isspace() else "x" for c in result] == [c if c.isspace() else "x" for c in text]
    for before, after in zip(text.split(), result.split(), strict=True):
        assert (before[0], before[-1], sorted(before)) == (after[0], after[-1], sorted(after))
        assert len(before) > 3 or before == after


@given(TEXTS, SEEDS, CHANCES)
def test_cases_change_only_in_ascii_letters(text, seed, probability):
    result = swap_cases(text, Random(seed), probability=probability)
    assert len(result) == len(text)
    for before, after in zip(text, result, strict=True):
        assert before == after or (before.isascii() and before.swapcase() == after)


@given(TEXTS, SEEDS, CHANCES)
def test_noise_moves_printable_ascii_by_one_and_leaves_the_rest(text, seed, probability):
    result = add_noise(text, Random(seed), probability=probability)
    assert len(result) == len(text)
    for before, after in zip(text, result, strict=True):
        assert before == after or (abs(ord(before) - ord(after)) == 1 and " " <= before <= "~" and " " <= after <= "~")


@given(TEXTS, SEEDS)
def test_without_strength_nothing_changes_and_the_same_seed_gives_the_same_copy(text, seed):
    assert augment(text, Random(seed), sigma=0.0) == text
    assert augment(text, Random(seed), sigma=0.4) == augment(text, Random(seed), sigma=0.4)


def test_the_probabilities_are_the_papers():
    """sqrt(0.4) = 0.632 for cases, 0.4^3 = 0.064 for noise; 'a' has both neighbours."""
    letters, rng = "a" * 20_000, Random(0)
    swapped = swap_cases(letters, rng, probability=0.4**0.5).count("A")
    noised = sum(letter != "a" for letter in add_noise(letters, rng, probability=0.4**3))
    words = scramble("abcdefghijklmnop " * 4000, rng, probability=0.4**0.5).split()
    scrambled = sum(word != "abcdefghijklmnop" for word in words)
    for count, total, expected in ((swapped, 20_000, 0.4**0.5), (noised, 20_000, 0.064), (scrambled, 4000, 0.4**0.5)):
        assert binomtest(count, total, expected).pvalue > 1e-3


def test_each_request_has_n_copies_of_which_the_first_are_the_same_for_any_n():
    requests = [
        Request(id=name, text=f"How do I paint {name}?", messages=[Message(role="system", content="Be brief.")])
        for name in ("a fence", "a boat")
    ]
    few, many = (build_attack("best_of_n", {"n": n}).craft(requests, seed=3) for n in (2, 5))
    assert [one.id for one in few] == [f"best_of_n:{name}#{draw}" for name in ("a fence", "a boat") for draw in (0, 1)]
    assert [one for one in many if one.draw < 2] == few
    assert len({one.messages for one in many}) == 10
    assert {one.messages[0].content for one in few} == {"Be brief."}
    assert {one.cell for one in many} == {"best_of_n"}


@pytest.mark.parametrize("options", [{"n": 0}, {"sigma": 1.5}, {"sigma": -0.1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(RecipeError, match="best_of_n"):
        ATTACKS["best_of_n"](**options)


@pytest.mark.parametrize("sigma", [0.4, 0.8])
def test_each_augmentation_has_the_papers_probability(sigma):
    size = 4000
    digits = augment("5 " * size, Random(0), sigma=sigma)[::2]  # a digit has no case, and a word of one has no middle
    assert binomtest(size - digits.count("5"), size, sigma**3).pvalue > 1e-3
    letters = augment("a " * size, Random(0), sigma=sigma)[::2]
    assert binomtest(letters.count("A"), size, sigma**0.5 * (1 - sigma**3)).pvalue > 1e-3
