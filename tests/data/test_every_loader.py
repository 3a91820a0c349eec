"""What all loaders of datasets have in common: the split, the format and the limit."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pytest

from derta.data.helpful import load_examples, read_examples
from derta.data.preferences import load_preferences
from derta.data.requests import load_requests
from derta.data.triples import load_triples, read_triples
from derta.errors import DataError
from derta.records import Example, Request

SPLITS = ("train", "test")
Loader = Any
LOADERS: dict[str, tuple[Loader, str, dict[str, str]]] = {
    "triples": (load_triples, "triples", {"query": "{}", "safe": "Sorry.", "harmful": "Flour."}),
    "read_triples": (
        lambda *words, **options: read_triples(*words, **options).triples,
        "triples",
        {"query": "{}", "safe": "Sorry.", "harmful": "Flour."},
    ),
    "examples": (load_examples, "alpaca", {"instruction": "{}", "output": "Flour."}),
    "read_examples": (
        lambda *words, **options: read_examples(*words, **options).examples,
        "alpaca",
        {"instruction": "{}", "output": "Flour."},
    ),
    "preferences": (load_preferences, "preference", {"query": "{}", "chosen": "Flour.", "rejected": "No."}),
    "requests": (load_requests, "requests", {"id": "{}", "text": "{}"}),
}


def text_of(row: Any) -> str:
    """The text that differs between the rows."""
    if isinstance(row, Example):
        return row.messages[0].content
    return row.id if isinstance(row, Request) else row.query


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def saved(name: str) -> Path:
        fields, folder = LOADERS[name][2], tmp_path_factory.mktemp("datasets") / "saved"
        rows = {split: [{k: v.format(f"{split} {i}") for k, v in fields.items()} for i in range(3)] for split in SPLITS}
        datasets.DatasetDict({split: datasets.Dataset.from_list(rows[split]) for split in SPLITS}).save_to_disk(folder)
        return folder

    return saved


@pytest.mark.parametrize("name", LOADERS)
def test_the_split_is_train_unless_another_is_named(folder_of: Callable[[str], Path], name: str) -> None:
    load, folder = LOADERS[name][0], folder_of(name)
    assert [text_of(row) for row in load(folder)] == ["train 0", "train 1", "train 2"]
    assert [text_of(row) for row in load(folder, split="test")] == ["test 0", "test 1", "test 2"]


@pytest.mark.parametrize("name", LOADERS)
def test_a_limit_takes_the_first_rows(folder_of: Callable[[str], Path], name: str) -> None:
    load, folder = LOADERS[name][0], folder_of(name)
    assert [text_of(row) for row in load(folder, limit=2)] == ["train 0", "train 1"]
    assert len(load(folder, limit=9)) == 3


@pytest.mark.parametrize("name", LOADERS)
def test_a_format_that_is_named_is_the_one_that_is_used(folder_of: Callable[[str], Path], name: str) -> None:
    (load, format, _), folder = LOADERS[name], folder_of(name)
    assert load(folder, format=format) == load(folder)
    with pytest.raises(DataError, match=r"expected a format of auto, .*, got 'tables'"):
        load(folder, format="tables")


@pytest.mark.parametrize("name", LOADERS)
def test_columns_are_named_and_a_configuration_is_for_folders_and_the_hub(tmp_path: Path, name: str) -> None:
    load, _, fields = LOADERS[name]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({f"Spalte {key}": value for key, value in fields.items()}), encoding="utf-8")
    columns = {key: f"Spalte {key}" for key in fields}
    [row] = load(path, columns=columns)
    assert text_of(row) == "{}"
    with pytest.raises(DataError, match="columns: unknown name 'colour'"):
        load(path, columns={**columns, "colour": "Spalte 1"})
    with pytest.raises(DataError, match=r"columns: expected a column of the file for .*, got 'Zeile'"):
        load(path, columns=dict.fromkeys(fields, "Zeile"))
    with pytest.raises(DataError, match="expected no `config` for a file, got 'easy'; remove it"):
        load(path, config="easy")
