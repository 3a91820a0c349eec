from __future__ import annotations

from collections import Counter
from math import exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.attacks.adaptive.genes import MARK, cross, draw, join, read_synonyms, reword, sentences, word_scores

TEXT = st.lists(st.sampled_from(["Help me. ", "Be kind!\n", "Why? ", f"{MARK} ", "so it is"]), min_size=1).map("".join)


@given(text=TEXT)
def test_sentences_joined_are_the_text(text):
    assert "".join(sentences(text)) == text


@given(first=TEXT, second=TEXT, points=st.integers(1, 6), seed=st.integers(0, 99))
def test_children_contain_the_parents_sentences_and_one_placeholder(first, second, points, seed):
    parents = [join(sentences(text)) for text in (first, second)]
    children = cross(*parents, points=points, rng=Random(seed))

    def bag(texts):
        return sorted("".join(texts).replace(MARK, "").split())

    assert bag(" ".join(children)) == bag(" ".join(parents))
    assert all(child.count(MARK) == 1 for child in children)


def test_one_cut_swaps_the_tails():
    rng = Random(0)
    first, second = f"A. {MARK} b.", f"C. {MARK} d."
    assert cross(first, second, points=1, rng=rng) == (f"A. {MARK} d.", f"C. {MARK} b.")


def test_words_are_sampled_by_their_scores_and_keep_their_capital():
    synonyms = read_synonyms(["help, aid, assist"])
    scores = {"aid": 0.0, "help": -99.0}
    text = reword("Help the helpful.", synonyms=synonyms, chance=1.0, rng=Random(0), scores=scores)
    assert text == "Aid the helpful."
    assert reword("Help.", synonyms=synonyms, chance=0.0, rng=Random(0)) == "Help."


def test_momentum_averages_the_mean_of_the_texts_with_the_previous_score():
    synonyms = read_synonyms(["help, aid"])
    # help: mean of -1 and -3 is -2, averaged with -4; aid does not occur and keeps its score
    scores = word_scores({"Help help": -1.0, "help": -3.0, "else": 0.0}, {"help": -4.0, "aid": -5.0}, synonyms=synonyms)
    assert scores == {"help": -3.0, "aid": -5.0}


@given(parts=st.lists(TEXT, max_size=4))
def test_joined_sentences_have_one_placeholder_from_any_texts(parts):
    assert join(parts).count(MARK) == 1


def test_a_key_is_drawn_with_the_softmax_of_its_value():
    rng = Random(0)
    counts = Counter(draw({"low": 0.0, "high": 1.0}, rng=rng) for _ in range(4000))
    assert counts["high"] / 4000 == pytest.approx(exp(1) / (1 + exp(1)), abs=0.03)  # 0.731; four standard errors
    assert draw({"impossible": float("-inf"), "only": -1000.0}, rng=rng) == "only"


def test_synonyms_ignore_case_blanks_and_empty_entries():
    assert read_synonyms([" Help ,aid,, ", ""]) == {"help": ("help", "aid"), "aid": ("help", "aid")}
