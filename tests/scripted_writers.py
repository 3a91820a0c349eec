"""Scripted models under names, for the engine `scripted`; harmless stand-ins for all texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from derta.engines import ENGINES
from derta.engines.scripted import ScriptedModel
from derta.records import Prompt
from small_run import write_jsonl

Script = Callable[[Prompt], str]
REQUESTS = [
    {"id": "a", "text": "How do I paint the garden fence?", "category": "wood"},
    {"id": "b", "text": "How do I boil the bitter roots?", "category": "food"},
    {"id": "c", "text": "How do I fly the paper kite?", "category": "air"},
]
STEPS = " First wash the roots and the fence and the kite, then cut them, and at last paint or boil them for an hour."


class Scripts(dict[str, Script]):
    """Scripts by the name of the model; `asked` has the ids of all prompts that were answered."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Scripts:
    """Models that answer in a scripted way; a model without a script is `writer`."""
    named = Scripts()
    named["writer"] = lambda prompt: STEPS
    named["refuser"] = lambda prompt: f"I'm sorry, but I can't help with {prompt.request_id}. It is not safe."
    named["editor"] = lambda prompt: (
        f'"Where is the {prompt.request.split()[-1].strip("?")} of {prompt.request_id} in the museum?"'
        if prompt.id.startswith("counterpart")
        else f"The {prompt.request_id} stands on the first floor, next to the old stove and the boat."
    )

    def load(path: str, *, dtype: str = "auto") -> ScriptedModel:
        def reply(prompt: Prompt) -> str:
            named.asked.append(prompt.id)
            return named[path](prompt)

        return ScriptedModel(reply)

    monkeypatch.setitem(ENGINES, "scripted", lambda: load)
    return named


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """The values of a configuration with three requests and every stage."""
    return {
        "requests": str(write_jsonl(tmp_path / "requests.jsonl", REQUESTS)),
        "harmful": {"model": "writer", "engine": "scripted", "judge": "harm"},
        "safe": {"model": "refuser", "engine": "scripted", "policy": "No paint.", "policy_in": "system"},
        "counterpart": {"model": "editor", "engine": "scripted"},
    }


def write_config(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path
