"""A landscape whose top is known: each good word in a prompt, and the right first sentence, make a start likelier."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.attacks import build_attack, read_attempts
from derta.attacks.adaptive.genes import MARK, cross, join, read_synonyms, reword, sentences, word_scores
from derta.engines.scripted import ScriptedModel
from derta.errors import DataError, ModelError, RecipeError
from derta.records import Request

GROUPS = "help, aid, assist\n=====\nkind, gentle, mild\n=====\nanswer, reply, response"
SEEDS = (
    "Dear gardener. Please help with this. [INSERT PROMPT HERE] Be kind.",
    "Good day. I want a answer. [INSERT PROMPT HERE] Thank you.",
)
GOOD = ("assist", "mild", "reply")
REQUEST = Request(id="r", text="How do I paint a fence?")


def count_good(prompt):
    text = prompt.messages[-1].content.lower()
    return sum(word in text for word in GOOD)


def climb(prompt, _before, _word):
    return -4.0 + count_good(prompt)


def judge(prompt, reply):
    return reply.text == "yes"


@pytest.fixture
def evolve(tmp_path, write):
    write("seeds.txt", "\n=====\n".join(SEEDS))
    write("synonyms.txt", GROUPS)

    def run(*, state="attempts", log_prob=climb, attacker=None, target=None, judged=True, seed=0, **options):
        built = build_attack(
            "autodan",
            {
                "seeds": str(tmp_path / "seeds.txt"),
                "synonyms": str(tmp_path / "synonyms.txt"),
                "population": 24,
                "steps": 60,
                "mutation": 0.2,
                **options,
            },
        )
        model = ScriptedModel(lambda prompt: "yes" if count_good(prompt) == 3 else "no", log_prob=log_prob)
        path = tmp_path / state
        [prompt] = built.search(
            [REQUEST],
            target=target or model,
            attacker=attacker and ScriptedModel(attacker),
            judge=judge if judged else None,
            state=path,
            seed=seed,
            clock=lambda: 0.0,
        )
        return prompt, read_attempts(path)

    return run


@pytest.mark.parametrize("seed", range(3))
def test_the_search_climbs_to_the_words_that_make_the_start_likeliest(evolve, seed):
    prompt, attempts = evolve(seed=seed)
    assert count_good(prompt) == 3  # of two seeds, neither of which holds a place for all three words
    assert REQUEST.text in prompt.messages[0].content
    assert attempts[-1].harmful


def test_without_a_slope_nothing_is_found_but_by_chance(evolve):
    _, attempts = evolve(log_prob=lambda *_: -1.0, judged=False, steps=8)
    assert {one.note for one in attempts} == {"mean log-likelihood -1.0000"}


def test_the_best_never_gets_worse_and_the_last_is_kept(evolve):
    prompt, attempts = evolve(judged=False, steps=20)
    notes = [float(one.note.split()[-1]) for one in attempts]
    assert notes == sorted(notes)
    assert [one.step for one in attempts] == list(range(1, 21))
    assert prompt.messages == attempts[-1].messages


def test_costs_count_each_likelihood_once_and_each_reply(evolve):
    prompt, attempts = evolve(steps=1, population=2)
    assert (prompt.cost.target_queries, prompt.cost.judge_queries, len(attempts)) == (2 + 1, 1, 1)
    assert prompt.cost.attacker_queries == 0


def test_the_same_seed_gives_the_same_prompt_and_a_finished_request_is_not_searched_again(evolve):
    first, attempts = evolve(state="a")
    again, _ = evolve(state="b")
    assert first == again

    class Silent:
        pass

    resumed, same = evolve(state="a", target=Silent())
    assert (resumed, same) == (first, attempts)


def test_a_stopped_search_comes_to_the_same(evolve, tmp_path):
    expected, attempts = evolve(state="whole")
    assert len(attempts) > 2
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    (tmp_path / "part").write_text("".join(lines[:2]) + lines[2][:9])
    assert evolve(state="part") == (expected, attempts)


def test_an_attacker_rewrites_in_place_of_rules_and_a_lost_place_is_put_back(evolve):
    seen = []

    def rewrite(prompt):
        seen.append(prompt)
        return "Assist me with a mild reply."  # loses the place of the request

    prompt, attempts = evolve(attacker=rewrite, population=3)
    assert prompt.messages[0].content == f"Assist me with a mild reply. {REQUEST.text}"
    assert len(attempts) == 1
    assert attempts[0].cost.attacker_queries == len(seen) == 1
    assert "[REQUEST]" in seen[0].messages[0].content
    assert MARK not in seen[0].messages[0].content


def test_a_prompt_that_the_target_cannot_take_is_the_worst_and_no_more(evolve):
    class Choosy(ScriptedModel):
        def log_likelihood(self, prompts, continuations):
            if any("gardener" in prompt.messages[0].content for prompt in prompts):
                raise ModelError("too long")
            return ScriptedModel.log_likelihood(self, prompts, continuations)

    prompt, _ = evolve(target=Choosy(lambda _: "no"), steps=3)
    assert "gardener" not in prompt.messages[0].content


TEXT = st.lists(st.sampled_from(["Help me. ", "Be kind!\n", "Why? ", f"{MARK} ", "so it is"]), min_size=1).map("".join)


@given(text=TEXT)
def test_sentences_joined_are_the_text(text):
    assert "".join(sentences(text)) == text


@given(first=TEXT, second=TEXT, points=st.integers(1, 6), seed=st.integers(0, 99))
def test_children_hold_the_parents_sentences_and_one_place_for_the_request(first, second, points, seed):
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


def test_words_are_drawn_by_their_scores_and_keep_their_capital():
    synonyms = read_synonyms(["help, aid, assist"])
    scores = {"aid": 0.0, "help": -99.0}
    found = reword("Help the helpful.", synonyms=synonyms, chance=1.0, rng=Random(0), scores=scores)
    assert found == "Aid the helpful."
    assert reword("Help.", synonyms=synonyms, chance=0.0, rng=Random(0)) == "Help."


def test_momentum_averages_the_mean_of_the_texts_with_what_was_known():
    synonyms = read_synonyms(["help, aid"])
    # help: mean of -1 and -3 is -2, averaged with -4; aid is not seen and keeps its score
    found = word_scores({"Help help": -1.0, "help": -3.0, "else": 0.0}, {"help": -4.0, "aid": -5.0}, synonyms=synonyms)
    assert found == {"help": -3.0, "aid": -5.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 0}, "expected population of at least 1, got 0"),
        ({"mutation": 2}, "expected mutation from 0 to 1, got 2"),
        ({"steps": 0}, "expected steps of at least 1"),
        ({"population": 1}, "expected a population of at least the 2 seeds, got 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(evolve, options, message):
    with pytest.raises(RecipeError, match=message):
        evolve(**options)


def test_seeds_without_a_place_for_the_request_are_refused(write):
    path = write("bare.txt", "Please help.")
    with pytest.raises(DataError, match="expected the placeholder"):
        build_attack("autodan", {"seeds": str(path)})
