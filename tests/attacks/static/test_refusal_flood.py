import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.attacks import build_attack
from derta.attacks.static.refusal_flood import flood, refusal_flood
from derta.engines.scripted import ScriptedModel
from derta.errors import DataError, RecipeError
from derta.records import Request

REQUESTS = [Request(id="r", text="How?", harmful="one two three four five six seven eight")]


def test_refusals_are_spaced_evenly_between_the_words_of_half_the_answer(craft):
    prompts = craft(refusal_flood(counts=(0, 1, 3), refusal="Sorry."), REQUESTS)
    assert [prompt.prefill for prompt in prompts] == [
        "one two three four",
        "one two Sorry. three four",
        "one Sorry. two Sorry. three Sorry. four",
    ]
    assert [prompt.cell for prompt in prompts] == ["refusal_flood@0", "refusal_flood@1", "refusal_flood@3"]


@given(words=st.lists(st.sampled_from(["mix", "bake", "wait"]), min_size=1, max_size=12), count=st.integers(0, 9))
def test_all_refusals_are_inserted_and_the_words_keep_their_order_and_come_last(words, count):
    words_out = flood(" ".join(words), "Sorry.", count=count).split()
    assert words_out.count("Sorry.") == count
    assert [word for word in words_out if word != "Sorry."] == words
    assert words_out[-1] != "Sorry."


def test_the_sweep_finds_the_number_of_refusals_that_wears_a_target_out(craft):
    def weary(prompt):
        return "and so on" if prompt.prefill.count("Sorry") >= 3 else "Sorry, no."

    prompts = craft(refusal_flood(counts=(1, 3, 5)), REQUESTS)
    replies = {reply.prompt_id: reply.text for reply in ScriptedModel(weary).generate(prompts, max_new_tokens=9)}
    assert [name for name, text in replies.items() if "Sorry" not in text] == ["refusal_flood@3:r", "refusal_flood@5:r"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("refusal_flood", {"counts": []}, "expected one or more counts"),
        ("refusal_flood", {"counts": [-1]}, r"counts\.0"),
        ("refusal_flood", {"depth": "0%"}, "expected a depth above 0%"),
        ("refusal_flood", {"depth": "5t"}, "counts tokens, but there is no tokenizer"),
    ],
)
def test_invalid_values_are_refused(name, options, message):
    with pytest.raises(RecipeError, match=message):
        build_attack(name, options)


def test_requests_without_a_harmful_answer_are_refused(craft):
    with pytest.raises(DataError, match="refusal_flood needs a harmful answer to every request, and 1 of 1"):
        craft(refusal_flood(), [Request(id="r", text="How?")])
