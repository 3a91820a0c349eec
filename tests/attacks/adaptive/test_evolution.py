from __future__ import annotations

import pytest
from landscape import REQUEST, count_good

from derta.attacks.adaptive.genes import MARK
from derta.engines.scripted import ScriptedModel
from derta.errors import ModelError


@pytest.mark.parametrize("seed", range(3))
def test_the_search_climbs_to_the_words_with_the_highest_likelihood(evolve, seed):
    prompt, attempts = evolve(seed=seed)
    assert count_good(prompt) == 3  # neither of the two seeds has synonyms of all three words
    assert REQUEST.text in prompt.messages[0].content
    assert attempts[-1].harmful


def test_on_a_flat_landscape_fitness_does_not_change(evolve):
    _, attempts = evolve(log_prob=lambda *_: -1.0, judged=False, steps=8)
    assert {one.note for one in attempts} == {"mean log-likelihood -1.0000"}


def test_the_best_fitness_never_decreases_and_the_last_best_is_the_prompt(evolve):
    prompt, attempts = evolve(judged=False, steps=20)
    notes = [float(one.note.split()[-1]) for one in attempts]
    assert notes == sorted(notes)
    assert [one.step for one in attempts] == list(range(1, 21))
    assert prompt.messages == attempts[-1].messages


def test_costs_count_each_likelihood_once_and_each_reply(evolve):
    prompt, attempts = evolve(steps=1, population=2)
    assert (prompt.cost.target_queries, prompt.cost.judge_queries, len(attempts)) == (2 + 1, 1, 1)
    assert prompt.cost.attacker_queries == 0


def test_an_attacker_rewrites_instead_of_the_rules_and_a_lost_placeholder_is_restored(evolve):
    prompts = []

    def rewrite(prompt):
        prompts.append(prompt)
        return "Assist me with a mild reply."  # without the placeholder of the request

    prompt, attempts = evolve(attacker=rewrite, population=3)
    assert prompt.messages[0].content == f"Assist me with a mild reply. {REQUEST.text}"
    assert len(attempts) == 1
    assert attempts[0].cost.attacker_queries == len(prompts) == 1
    assert "[REQUEST]" in prompts[0].messages[0].content
    assert MARK not in prompts[0].messages[0].content


def test_a_prompt_that_the_target_cannot_process_is_the_worst_and_no_error(evolve):
    class Choosy(ScriptedModel):
        def log_likelihood(self, prompts, continuations):
            if any("gardener" in prompt.messages[0].content for prompt in prompts):
                raise ModelError("too long")
            return ScriptedModel.log_likelihood(self, prompts, continuations)

    prompt, _ = evolve(target=Choosy(lambda _: "no"), steps=3)
    assert "gardener" not in prompt.messages[0].content
