"""Conversations that are longer than a window."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import JsonValue

from derta.config import Recipe, parse_recipe
from derta.errors import ModelError
from derta.messages import Role
from derta.pipeline.contents import read_contents
from derta.pipeline.evaluate import craft_prompts
from derta.pipeline.run import run
from derta.pipeline.windows import fit_windows, without_oldest
from derta.records import Message, Prompt
from small_run import write_jsonl

LONG = "Where is the green boat now? " * 12
SHORT = "And the kite?"


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def conversation(*turns: str, system: str | None = None) -> dict[str, object]:
    roles = ["user" if index % 2 == 0 else "assistant" for index in range(len(turns))]
    first = [] if system is None else [message("system", system)]
    return {"messages": [*first, *map(message, roles, turns)]}


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The tiny model with 160 positions."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_model_dir.iterdir():
        (folder / path.name).symlink_to(path)
    config = json.loads((tiny_model_dir / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 160}))
    return folder


def recipe(model: Path, rows: list[dict[str, object]], folder: Path) -> Recipe:
    asked = {"path": str(write_jsonl(folder / "asked.jsonl", rows)), "format": "conversations"}
    values = {
        "title": "windows",
        "model": {"path": str(model)},
        "methods": ["base"],
        "data": {"triples": [], "helpful": []},
        "generate": {"max_new_tokens": 4, "dtype": "float32"},
        "evaluate": [{"requests": asked}],
    }
    return parse_recipe(values, where="recipe")


def fitted(found: Recipe) -> tuple[list[Prompt], list[str]]:
    return fit_windows(found, craft_prompts(found, held_out=[], seed=0))


def test_the_oldest_turns_are_left_out_until_the_conversation_fits(model: Path, tmp_path: Path) -> None:
    rows = [
        conversation(LONG, LONG, "Is it red?", "No.", SHORT, system="Be brief."),
        conversation("Is it red?", "No.", SHORT),
    ]
    (first, second), notes = fitted(recipe(model, rows, tmp_path))
    assert [one.content for one in first.messages or ()] == ["Be brief.", "Is it red?", "No.", SHORT]
    assert "green boat" in (first.request or "")  # a judge reads all turns of the user
    assert [one.content for one in second.messages or ()] == ["Is it red?", "No.", SHORT]
    assert notes == [
        "1 conversations are longer than the window of a model: their oldest turns are left out for all models."
    ]


def test_a_last_turn_that_is_too_long_alone_stays_and_is_an_error(model: Path, tmp_path: Path) -> None:
    found = recipe(model, [conversation("Is it red?", "No.", LONG * 2)], tmp_path)
    [prompt], notes = fitted(found)
    assert [one.content for one in prompt.messages or ()] == [(LONG * 2).strip()]
    assert len(notes) == 1
    with pytest.raises(ModelError, match=r"are more than the model's 160 positions"):
        run(found, out=tmp_path / "run")


def test_prompts_without_earlier_turns_load_no_model(tmp_path: Path) -> None:
    rows = [conversation(LONG), conversation(LONG, system="Be brief.")]
    prompts, notes = fitted(recipe(tmp_path / "no model", rows, tmp_path))
    assert (len(prompts), notes) == (2, [])


def test_a_run_answers_the_shorter_conversation_and_says_so(model: Path, tmp_path: Path) -> None:
    found = recipe(model, [conversation(LONG, LONG, SHORT)], tmp_path)
    summary = run(found, out=tmp_path / "run")
    assert any("their oldest turns are left out" in note for note in read_contents(tmp_path / "run").notes)
    assert run(found, out=tmp_path / "run") == summary


def test_results_of_tools_leave_with_their_turn() -> None:
    roles: tuple[Role, ...] = ("user", "assistant", "tool", "assistant", "user")
    call: dict[str, JsonValue] = {"function": {"name": "oven", "arguments": {}}}
    turns = [
        Message(role=role, content="Hot.", tool_calls=(call,) if index == 1 else None)
        for index, role in enumerate(roles)
    ]
    assert [one.role for one in without_oldest(turns)] == ["user"]
