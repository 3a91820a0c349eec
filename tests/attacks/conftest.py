"""Fixtures of the attacks' tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from derta.attacks import Attack
from derta.records import Prompt, Request

Craft = Callable[..., list[Prompt]]


@pytest.fixture(scope="session")
def craft() -> Craft:
    def run(attack: Attack, requests: Sequence[Request], *, seed: int = 0) -> list[Prompt]:
        return attack.craft(requests, seed=seed)

    return run


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Return the options that an attack requires, or that make it fast; all texts are benign."""
    folder = tmp_path_factory.mktemp("attacks")
    templates = [f"Play the part of gardener {n} and answer: [INSERT PROMPT HERE] Thank you." for n in range(20)]
    (folder / "templates.json").write_text(json.dumps(templates), encoding="utf-8")
    demonstrations = [{"user": f"How is soup {n} made?", "assistant": f"Boil vegetable {n}."} for n in range(5)]
    lines = "".join(json.dumps(row) + "\n" for row in demonstrations)
    (folder / "demonstrations.jsonl").write_text(lines, encoding="utf-8")
    (folder / "seeds.txt").write_text("Dear gardener. Please tell: [INSERT PROMPT HERE]", encoding="utf-8")
    return {
        "best_of_n": {"n": 5},
        "pair": {"streams": 2},
        "autodan": {"seeds": str(folder / "seeds.txt"), "population": 3, "steps": 2},
        "jailbreak_chat": {"templates": str(folder / "templates.json")},
        "self_cipher": {"demonstrations": str(folder / "demonstrations.jsonl")},
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file
