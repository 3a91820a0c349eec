from __future__ import annotations

import pytest
from magic_words import ANSWER, REQUESTS, judge, reply_to, run

from derta.attacks import build_attack
from derta.engines.scripted import ScriptedModel
from derta.errors import RecipeError


def test_pair_finds_the_prompt_that_needs_two_replies_as_input(tmp_path):
    prompts = run("pair", tmp_path / "attempts", streams=2, depth=3)
    assert [prompt.id for prompt in prompts] == ["pair:fence", "pair:boat"]
    assert [reply_to(prompt) for prompt in prompts] == [ANSWER] * 2
    assert [(prompt.request, prompt.category) for prompt in prompts] == [(one.text, "craft") for one in REQUESTS]


def test_with_one_step_too_few_the_best_prompt_still_fails(tmp_path):
    prompts = run("pair", tmp_path / "attempts", streams=2, depth=2)
    assert all(reply_to(prompt).startswith("Sorry") for prompt in prompts)


def test_each_step_starts_a_new_conversation(tmp_path):
    [prompt, _] = run("pair", tmp_path / "attempts", streams=1, depth=3)
    assert [message.role for message in prompt.messages] == ["user"]


def test_pair_needs_an_attacker_and_a_judge():
    model = ScriptedModel(reply_to)
    for helpers in ({"attacker": model}, {"judge": judge}):
        with pytest.raises(RecipeError, match="expected an attacker and a judge"):
            build_attack("pair").search(REQUESTS, target=model, **helpers)


@pytest.mark.parametrize("option", ["streams", "depth", "attacker_attempts", "max_new_tokens"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(RecipeError, match=f"expected {option} of at least 1, got 0"):
        build_attack("pair", {option: 0})
