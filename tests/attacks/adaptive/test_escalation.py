from __future__ import annotations

import pytest
from magic_words import ANSWER, REQUESTS, judge, reply_to, run

from derta.attacks import build_attack
from derta.engines.scripted import ScriptedModel
from derta.errors import RecipeError


def test_escalation_finds_the_prompt_that_needs_two_replies_as_input(tmp_path):
    prompts = run("escalation", tmp_path / "attempts", streams=2, depth=3)
    assert [prompt.id for prompt in prompts] == ["escalation:fence", "escalation:boat"]
    assert [reply_to(prompt) for prompt in prompts] == [ANSWER] * 2
    assert [(prompt.request, prompt.category) for prompt in prompts] == [(one.text, "craft") for one in REQUESTS]


def test_all_steps_are_one_conversation_with_the_targets_replies(tmp_path):
    [prompt, _] = run("escalation", tmp_path / "attempts", streams=1, depth=3)
    assert [message.role for message in prompt.messages] == ["user", "assistant"] * 2 + ["user"]
    assert prompt.messages[1].content == "Sorry, only with a brush ."


def test_escalation_needs_an_attacker_and_a_judge():
    model = ScriptedModel(reply_to)
    for helpers in ({"attacker": model}, {"judge": judge}):
        with pytest.raises(RecipeError, match="expected an attacker and a judge"):
            build_attack("escalation").search(REQUESTS, target=model, **helpers)


@pytest.mark.parametrize("option", ["streams", "depth", "attacker_attempts", "max_new_tokens"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(RecipeError, match=f"expected {option} of at least 1, got 0"):
        build_attack("escalation", {option: 0})
