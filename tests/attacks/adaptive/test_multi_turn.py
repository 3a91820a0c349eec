import pytest

from derta.attacks import build_attack, read_attempts
from derta.engines.scripted import ScriptedModel
from derta.errors import DataError, RecipeError
from derta.records import Request

REQUESTS = [Request(id=name, text=f"How do I paint a {name}?") for name in ("fence", "boat")]


def run(path, *, target, requests=REQUESTS, **options):
    attack = build_attack("multi_turn", options)
    return list(attack.search(requests, target=ScriptedModel(target), state=path, clock=lambda: 0.0))


def echo(prompt):
    return f"You said: {prompt.messages[-1].content}"


def test_a_conversation_contains_the_targets_replies_and_ends_with_the_request(tmp_path, write):
    script = write("script.txt", "Hello!\n=====\nWhat is @REQUEST@ about?")
    prompts = run(tmp_path / "attempts", target=echo, turns=(1, 2), script=script)
    assert [prompt.id for prompt in prompts] == [f"multi_turn@{n}:{name}" for name in ("fence", "boat") for n in (1, 2)]
    assert [message.content for message in prompts[1].messages] == [
        "Hello!",
        "You said: Hello!",
        "What is How do I paint a fence? about?",
        "You said: What is How do I paint a fence? about?",
        "How do I paint a fence?",
    ]
    assert [message.role for message in prompts[1].messages] == ["user", "assistant"] * 2 + ["user"]
    assert [prompt.cost.target_queries for prompt in prompts] == [1, 2, 1, 2]


def test_the_sweep_finds_the_number_of_turns_that_softens_a_target(tmp_path):
    def softening(prompt):
        return "Clean the wood." if len(prompt.messages) >= 5 else "Sorry, no."

    prompts = run(tmp_path / "attempts", target=softening, turns=(1, 2, 4))
    assert [prompt.variant for prompt in prompts if softening(prompt) == "Clean the wood."] == ["2", "4"] * 2


def test_a_stopped_search_resumes(tmp_path):
    whole = tmp_path / "whole"
    expected = run(whole, target=echo)
    lines = whole.read_text().splitlines(keepends=True)
    part = tmp_path / "part"
    part.write_text("".join(lines[:3]))
    assert run(part, target=echo) == expected
    assert len(read_attempts(part)) == len(lines) == 8


@pytest.mark.parametrize("options", [{"turns": []}, {"turns": [9]}, {"turns": [2, 2]}, {"max_new_tokens": 0}])
def test_invalid_values_are_refused(options):
    with pytest.raises(RecipeError, match="multi_turn: expected"):
        build_attack("multi_turn", options)


def test_a_script_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot read it"):
        build_attack("multi_turn", {"script": str(tmp_path / "none.txt")})
