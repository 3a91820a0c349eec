"""Attacks on a request that is not the first of a conversation, or that has a system prompt or tools."""

import pytest

from derta.attacks import ATTACKS
from derta.attacks.building import from_function
from derta.engines.scripted import ScriptedModel
from derta.errors import DataError
from derta.records import Message, Prompt, Request

SYSTEM = Message(role="system", content="Be brief.")
TURNS = (Message(role="user", content="What is dough?"), Message(role="assistant", content="Flour with water."))
TOOLS = ({"type": "function", "function": {"name": "look", "parameters": {}}},)
REQUEST = Request(id="7", text="And bread?", harmful="Mix it, wait, then bake.", messages=(SYSTEM, *TURNS), tools=TOOLS)
CHAT = [name for name in ATTACKS if name not in ("completing", "self_cipher")]


def find(name, options):
    return ATTACKS[name](**options.get(name, {}))


def prompts_of(attack, request: Request) -> list[Prompt]:
    if not attack.searches:
        return attack.craft([request])
    engine = ScriptedModel(lambda prompt: '{"improvement": "", "prompt": "Please?"} mix')
    judge = lambda _, reply: True  # noqa: E731
    return [*attack.search([request], target=engine, attacker=engine, judge=judge)]


@pytest.mark.parametrize("name", CHAT)
def test_the_context_comes_before_what_an_attack_writes(name, options):
    for prompt in prompts_of(find(name, options), REQUEST):
        assert prompt.messages[:3] == (SYSTEM, *TURNS)
        roles = [message.role for message in prompt.messages[3:]]
        assert roles == ["user", *["assistant", "user"] * (len(roles) // 2)]
        assert prompt.tools == TOOLS
        assert prompt.request == "What is dough?\n\nAnd bread?", "judges see what was asked before"


@pytest.mark.parametrize("name", ATTACKS)
def test_a_request_without_context_has_the_prompt_that_it_had(name, options):
    request = REQUEST.model_copy(update={"messages": (), "tools": None})
    for prompt in prompts_of(find(name, options), request):
        assert prompt.tools is None
        assert prompt.request == "And bread?"


def test_a_system_prompt_is_joined_with_that_of_the_attack(options):
    [prompt] = find("self_cipher", options).craft([REQUEST])
    assert [message.role for message in prompt.messages] == ["system", "user", "assistant", "user"]
    assert prompt.messages[0].content.startswith("Be brief.\n\n")


def test_raw_text_leaves_out_a_system_prompt_and_has_no_earlier_turns(options):
    [prompt] = find("completing", options).craft([REQUEST.model_copy(update={"messages": (SYSTEM,)})])
    assert (prompt.mode, prompt.messages, prompt.tools) == ("raw", None, None)
    with pytest.raises(DataError, match="expected requests without earlier turns, got '7' after 3 messages"):
        find("completing", options).craft([REQUEST])


def test_a_users_attack_returns_the_last_message_or_the_whole_prompt():
    def politely(request):
        return f"Please: {request.text}"

    def alone(request):
        return Prompt(id="x", request_id="x", attack="x", messages=(Message(role="user", content=request.text),))

    def raw(request):
        return Prompt(id="x", request_id="x", attack="x", mode="raw", text=request.text)

    [prompt] = from_function(politely).craft([REQUEST])
    assert [message.content for message in prompt.messages] == [
        "Be brief.",
        "What is dough?",
        "Flour with water.",
        "Please: And bread?",
    ]
    [prompt] = from_function(alone).craft([REQUEST])
    assert (len(prompt.messages), prompt.tools) == (1, TOOLS)
    [prompt] = from_function(raw).craft([REQUEST])
    assert (prompt.messages, prompt.tools) == (None, None)
