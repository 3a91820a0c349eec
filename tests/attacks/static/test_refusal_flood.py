import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.attacks import build_attack
from derta.attacks.static.past_the_refusal import past_the_refusal
from derta.attacks.static.refusal_flood import flood, refusal_flood
from derta.engines.scripted import ScriptedModel
from derta.errors import DataError, RecipeError
from derta.records import Request

ASKED = [Request(id="r", text="How?", harmful="one two three four five six seven eight")]


def test_refusals_stand_evenly_between_the_words_of_half_the_answer(craft):
    prompts = craft(refusal_flood(counts=(0, 1, 3), refusal="Sorry."), ASKED)
    assert [prompt.prefill for prompt in prompts] == [
        "one two three four",
        "one two Sorry. three four",
        "one Sorry. two Sorry. three Sorry. four",
    ]
    assert [prompt.cell for prompt in prompts] == ["refusal_flood@0", "refusal_flood@1", "refusal_flood@3"]


@given(words=st.lists(st.sampled_from(["mix", "bake", "wait"]), min_size=1, max_size=12), count=st.integers(0, 9))
def test_every_refusal_is_there_the_words_keep_their_order_and_have_the_last_word(words, count):
    found = flood(" ".join(words), "Sorry.", count=count).split()
    assert found.count("Sorry.") == count
    assert [word for word in found if word != "Sorry."] == words
    assert found[-1] != "Sorry."


def test_the_sweep_finds_the_number_of_refusals_that_wears_a_target_out(craft):
    def weary(prompt):
        return "and so on" if prompt.prefill.count("Sorry") >= 3 else "Sorry, no."

    prompts = craft(refusal_flood(counts=(1, 3, 5)), ASKED)
    replies = {reply.prompt_id: reply.text for reply in ScriptedModel(weary).generate(prompts, max_new_tokens=9)}
    assert [name for name, text in replies.items() if "Sorry" not in text] == ["refusal_flood@3:r", "refusal_flood@5:r"]


def test_each_turn_comes_after_the_refusal_and_the_shipped_ones_are_several(craft):
    prompts = craft(past_the_refusal(), ASKED)
    assert len(prompts) >= 3
    assert all(prompt.prefill.startswith("Sorry, I can't help with that. ") for prompt in prompts)
    assert len({prompt.prefill for prompt in prompts}) == len(prompts)
    [own] = craft(past_the_refusal(refusal="No.", turns=("But yes:",)), ASKED)
    assert (own.id, own.prefill) == ("past_the_refusal@1:r", "No. But yes:")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("refusal_flood", {"counts": []}, "expected one or more counts"),
        ("refusal_flood", {"counts": [-1]}, r"counts\.0"),
        ("refusal_flood", {"depth": "0%"}, "expected a depth above 0%"),
        ("refusal_flood", {"depth": "5t"}, "counts tokens, but there is no tokenizer"),
        ("past_the_refusal", {"turns": []}, "expected one or more turns"),
    ],
)
def test_values_that_cannot_be_are_refused(name, options, message):
    with pytest.raises(RecipeError, match=message):
        build_attack(name, options)


def test_requests_without_a_harmful_answer_are_refused(craft):
    with pytest.raises(DataError, match="refusal_flood needs a harmful answer to every request, and 1 of 1"):
        craft(refusal_flood(), [Request(id="r", text="How?")])
