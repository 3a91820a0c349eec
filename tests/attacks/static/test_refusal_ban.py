import pytest

from derta.attacks import build_attack
from derta.attacks.static.refusal_ban import refusal_ban
from derta.engines.scripted import ScriptedModel
from derta.errors import RecipeError
from derta.records import Decoding, Request

REQUESTS = [Request(id="r", text="How do I paint a fence?")]


def guarded(prompt):
    """Return a target's reply: a refusal with one word, or the answer if that word is banned for two tokens or more."""
    decoding = prompt.decoding
    banned = decoding is not None and "Sorry" in decoding.banned and (decoding.steps is None or decoding.steps >= 2)
    return "Clean the wood, paint it twice." if banned else "Sorry, no."


def test_the_sweep_finds_the_span_that_a_guarded_target_gives_way_to(craft):
    prompts = craft(refusal_ban(spans=(1, 2, "all")), REQUESTS)
    replies = {reply.prompt_id: reply.text for reply in ScriptedModel(guarded).generate(prompts, max_new_tokens=9)}
    assert {name: text.startswith("Sorry") for name, text in replies.items()} == {
        "refusal_ban@1:r": True,
        "refusal_ban@2:r": False,
        "refusal_ban@all:r": False,
    }


def test_a_ban_does_not_apply_to_the_end_of_the_reply(craft):
    [prompt] = craft(refusal_ban(words=("No",), spans=(3,)), REQUESTS)
    assert prompt.decoding == Decoding(banned=("No",), steps=3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("refusal_ban", {"spans": [0]}, r"spans\.0"),
        ("refusal_ban", {"spans": ["most"]}, r"spans\.0"),
        ("refusal_ban", {"spans": [2, 2]}, "expected one or more spans, each once"),
        ("refusal_ban", {"words": []}, "expected one or more words"),
    ],
)
def test_invalid_values_are_refused(name, options, message):
    with pytest.raises(RecipeError, match=message):
        build_attack(name, options)


def test_a_decoding_that_could_never_end_is_invalid():
    with pytest.raises(ValueError, match="ban_end needs steps"):
        Decoding(banned=("Sorry",), ban_end=True)
    with pytest.raises(ValueError, match="banned"):
        Decoding(banned=())
