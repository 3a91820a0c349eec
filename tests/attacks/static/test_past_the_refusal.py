import pytest

from derta.attacks import build_attack
from derta.attacks.static.past_the_refusal import REFUSAL, past_the_refusal
from derta.errors import RecipeError
from derta.records import Request

REQUESTS = [Request(id="r", text="How?")]


def test_each_turn_comes_after_the_refusal_and_the_default_turns_are_several(craft):
    prompts = craft(past_the_refusal(), REQUESTS)
    assert len(prompts) >= 3
    assert all(prompt.prefill.startswith(f"{REFUSAL} ") for prompt in prompts)
    assert REFUSAL == "Sorry, I can't help with that."
    assert len({prompt.prefill for prompt in prompts}) == len(prompts)
    [custom] = craft(past_the_refusal(refusal="No.", turns=("But yes:",)), REQUESTS)
    assert (custom.id, custom.prefill) == ("past_the_refusal@1:r", "No. But yes:")


def test_variants_are_numbered_in_the_order_of_the_turns_and_the_request_is_unchanged(craft):
    prompts = craft(past_the_refusal(refusal="No.", turns=("First", "Second")), REQUESTS)
    assert [(prompt.variant, prompt.prefill) for prompt in prompts] == [("1", "No. First"), ("2", "No. Second")]
    assert [prompt.messages[-1].content for prompt in prompts] == ["How?"] * 2


@pytest.mark.parametrize("turns", [[], ["But yes:", "But yes:"]])
def test_turns_come_once_each(turns):
    with pytest.raises(RecipeError, match="expected one or more turns, each once"):
        build_attack("past_the_refusal", {"turns": turns})
