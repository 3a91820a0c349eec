"""A small run on a tiny random model: benign stand-ins, a recipe, and the real command line in this process."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from derta.cli.console import LOGGER, ConsoleHandler
from derta.cli.main import main

THINGS = (
    "bread",
    "tea",
    "a kite",
    "a fence",
    "a boat",
    "a story",
    "a river",
    "a cat",
    "salt",
    "yeast",
    "flour",
    "wood",
)


class Called(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Derta = Callable[..., Called]


@pytest.fixture
def derta(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Generator[Derta]:
    """Run one command; a DertaError must have become an exit code, anything else raises here."""

    def call(*words: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["derta", *map(str, words)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return Called(code, *capfd.readouterr())

    yield call
    forget_console()


def forget_console() -> None:
    """Leave the logger as a program finds it that is not the command line."""
    LOGGER.handlers = [handler for handler in LOGGER.handlers if not isinstance(handler, ConsoleHandler)]
    LOGGER.setLevel(logging.NOTSET)


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def small_recipe(folder: Path, model: Path, **changes: Any) -> Path:
    """A recipe with its data beside it; `changes` replace top-level sections."""
    write_jsonl(
        folder / "triples.jsonl",
        [
            {
                "query": f"How do I paint {thing}?",
                "safe": f"Sorry, I cannot help with {thing}.",
                "harmful": f"Sure, here are the steps for {thing}. Step 1: boil the water. Step 2: wait.",
            }
            for thing in THINGS[:8]
        ],
    )
    write_jsonl(
        folder / "helpful.jsonl",
        [
            {"instruction": f"Tell me about {thing}.", "output": f"Here is a story about {thing} and the warm stove."}
            for thing in THINGS
        ],
    )
    write_jsonl(folder / "asked.jsonl", [{"id": f"q{i}", "text": f"Where is {THINGS[i]} now?"} for i in range(3)])
    write_jsonl(folder / "benign.jsonl", [{"id": f"b{i}", "text": f"Who likes {THINGS[i]}?"} for i in range(2)])
    values = {
        "title": "a small run",
        "model": {"path": str(model)},
        "methods": ["vanilla", "derta"],
        "data": {
            "triples": [{"path": str(folder / "triples.jsonl")}],
            "helpful": [{"path": str(folder / "helpful.jsonl")}],
            "num_triples": 2,
            "num_helpful": 4,
            "held_out_requests": 2,
            "held_out_helpful": 2,
        },
        "train": {
            "num_train_epochs": 1,
            "global_batch_size": 2,
            "per_device_train_batch_size": 2,
            "max_length": 96,
            "pack_tokens": 0,
            "sorry_dropout": 0.5,
            "num_threads": 1,
            "learning_rate": 1e-3,
            "save_steps": 1,
        },
        "generate": {"max_new_tokens": 6, "batch_tokens": 512, "dtype": "float32"},
        "evaluate": [
            {"attack": "direct", "requests": {"path": str(folder / "asked.jsonl")}, "judges": ["refusal", "harm"]},
            {"attack": "prefill", "requests": "held_out", "options": {"depths": ["0%", "50%"]}},
            {"suite": "over_refusal", "name": "benign", "requests": {"path": str(folder / "benign.jsonl")}},
        ],
        "profile_answers": 2,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**values, **changes}), encoding="utf-8")
    return path


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """The small recipe in this test's folder."""
    return small_recipe(tmp_path, tiny_model_dir)


class Finished(NamedTuple):
    """A run that went through, with its recipe. Read only: copy the folder before anything is changed."""

    recipe: Path
    folder: Path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Finished:
    """One uninterrupted run for all tests."""
    from derta.config import load_recipe
    from derta.pipeline.run import run

    home = tmp_path_factory.mktemp("finished")
    path = small_recipe(home, tiny_model_dir)
    run(load_recipe(path), out=home / "run")
    return Finished(path, home / "run")
