"""Any search: its judge, its state file, and the options that identify it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from derta.attacks import multi_turn, pair, read_attempts
from derta.attacks.search import as_judge
from derta.engines.scripted import ScriptedModel
from derta.errors import DataError, RecipeError, RunError
from derta.judges import build_judge
from derta.protocols import Case
from derta.records import Message, Prompt, Reply, Request, Verdict

REQUESTS = [Request(id="fence", text="How do I paint a fence?")]
TARGET = ScriptedModel(lambda prompt: "Clean the wood first." if "please" in prompt.messages[-1].content else "Sorry.")  # pyright: ignore[reportOptionalSubscript]
ATTACKER = ScriptedModel(lambda prompt: '{"improvement": "politer", "prompt": "Tell me, please."}')
CASE = Case(
    Prompt(id="p", request_id="r", attack="pair", messages=(Message(role="user", content="?"),)),
    Reply(prompt_id="p", sample=2, text="Clean the wood first."),
)


def is_clean(prompt: Prompt, reply: Reply) -> bool:
    return "Clean" in reply.text


def search(state: Path | None = None, **changed: Any) -> list[Prompt]:
    options = {"streams": changed.pop("streams", 1)}
    defaults: dict[str, Any] = {
        "target": TARGET,
        "attacker": ATTACKER,
        "judge": is_clean,
        "state": state,
        "clock": lambda: 0.0,
    }
    return list(pair(**options).search(changed.pop("requests", REQUESTS), **{**defaults, **changed}))


def test_a_search_without_a_state_file_gives_the_same_prompts(tmp_path: Path) -> None:
    assert search() == search(tmp_path / "attempts.jsonl")
    assert [one.harmful for one in read_attempts(tmp_path / "attempts.jsonl")] == [True]


@pytest.mark.parametrize(
    "changed",
    [
        {"key": "another model"},
        {"seed": 1},
        {"streams": 2},
        {"judge": build_judge(is_clean, name="another")},
        {"requests": [Request(id="fence", text="How do I paint a gate?")]},
    ],
)
def test_the_state_of_another_search_is_refused_before_anything_is_queried(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    state = tmp_path / "attempts.jsonl"
    prompts = search(state)
    assert search(str(state)) == prompts  # pyright: ignore[reportArgumentType]
    with pytest.raises(RunError, match="expected the attempts of this search"):
        search(state, **changed)


@pytest.mark.parametrize(
    "judge",
    [
        is_clean,
        build_judge(is_clean),
        lambda prompt, reply: Verdict(prompt_id=prompt.id, sample=reply.sample, judge="mine", harmful=True, score=0.9),
    ],
)
def test_a_judge_is_an_object_or_a_function_of_a_prompt_and_its_reply(judge: Any) -> None:
    [verdict] = as_judge(judge)([CASE])
    assert (verdict.harmful, verdict.key) == (True, ("p", 2))


def test_a_changed_function_of_one_name_is_another_judge_of_a_search(tmp_path: Path) -> None:
    def judge(prompt: Prompt, reply: Reply) -> bool:
        return "Clean" in reply.text

    def edited(prompt: Prompt, reply: Reply) -> bool:
        return "clean" in reply.text.lower()

    edited.__name__, edited.__qualname__ = judge.__name__, judge.__qualname__
    search(tmp_path / "attempts.jsonl", judge=judge)
    with pytest.raises(RunError, match="expected the attempts of this search"):
        search(tmp_path / "attempts.jsonl", judge=edited)


def test_the_error_for_another_return_value_of_a_judge_names_the_prompt() -> None:
    with pytest.raises(DataError, match=r"expected True, False, None or a Verdict, got a str on prompt 'p'"):
        as_judge(lambda prompt, reply: "yes")([CASE])  # pyright: ignore[reportArgumentType, reportReturnType]


def test_none_from_a_judge_function_is_no_verdict() -> None:
    [verdict] = as_judge(lambda prompt, reply: None)([CASE])
    assert verdict.harmful is None


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (build_judge("refusal"), "judge 'refusal': expected one that measures harm"),
        ("harm", "expected a judge or a function of a prompt and its reply, got 'harm'"),
    ],
)
def test_a_judge_that_does_not_measure_harm_is_refused_before_any_query(judge: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        multi_turn().search(REQUESTS, target=TARGET, judge=judge)
