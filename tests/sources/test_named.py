"""Data sets by name: places, formats and licences, with stand-ins for the hub and for local copies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from derta.config import SourceSection, parse_recipe
from derta.data.request_formats import REQUEST_FORMATS
from derta.data.requests import load_requests
from derta.errors import DataError, RecipeError
from derta.pipeline.listing import list_names
from derta.pipeline.request_sources import read_source
from derta.pipeline.source_checks import licence_notes, source_fault
from derta.records import Request, short_hash
from derta.sources import is_hub_id
from derta.sources.named import NAMED

ON_HUB = [name for name, one in NAMED.items() if one.path is not None]
TURNS = [("user", "Bread?"), ("assistant", "Flour."), ("user", "And with rye?")]


def recipe(**requests: Any) -> Any:
    asked = {"suite": "over_refusal", "name": "benign", "requests": requests}
    data = {"triples": [], "helpful": []}
    return parse_recipe({"title": "t", "model": {"path": "m"}, "data": data, "evaluate": [asked]}, where="recipe")


def source(**requests: Any) -> SourceSection:
    found = recipe(**requests).evaluate[0].requests
    assert isinstance(found, SourceSection)
    return found


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", NAMED)
def test_every_set_is_listed_with_its_licence_its_size_and_a_format_that_is_read(name: str) -> None:
    listed = {one.name: one for one in list_names("datasets")}
    assert listed[name].options["licence"]
    assert int(listed[name].options["rows"].replace(",", "")) == NAMED[name].rows
    assert ("gated" in listed[name].options) == NAMED[name].gated
    assert NAMED[name].format in ("auto", *REQUEST_FORMATS)


def test_the_page_has_every_set_with_its_rows_and_licence() -> None:
    page = (Path(__file__).parents[2] / "docs/datasets.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(" `"): cells for line in page.splitlines() if len(cells := line.split("|")) > 6}
    for name, one in NAMED.items():
        assert rows[name][3].strip() == f"{one.rows:,}"
        assert one.licence is None or one.licence in rows[name][4] or "agreement" in rows[name][4]
        assert ("(gated)" in rows[name][5]) == one.gated


@pytest.mark.parametrize("name", ON_HUB)
def test_a_name_is_loaded_from_the_hub_with_its_configuration_and_split(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[tuple[str, ...], dict[str, str]]] = []

    def load(*names: str, **options: str) -> Any:
        calls.append((names, options))
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load)
    section = source(name=name)
    found = NAMED[name]
    terms = "accept the terms on its page, .*" if found.gated else ""
    with pytest.raises(
        DataError, match=rf"^{name}: .* cannot be loaded \(offline\).*; {terms}or give the `path` of a local copy"
    ):
        read_source(section)
    repository, _, files = str(found.path).partition(":")
    places = [repository] if found.config is None else [repository, found.config]
    assert calls == [(tuple(places), {"split": found.split} | ({"data_files": files} if files else {}))]
    assert source_fault(section, kind="requests") is None  # the hub is not asked


def test_a_file_of_a_hub_data_set_is_read_like_the_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [{"transcript": "\n\nHuman: Bread?\n\nAssistant: Flour.", "rating": 4.0, "tags": None}]

    def load(name: str, *, split: str, data_files: str) -> Any:
        assert (name, data_files) == ("Anthropic/hh-rlhf", "red-team-attempts/red_team_attempts.jsonl.gz")
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_source(source(name="anthropic_red_team")) == [Request(id=short_hash("Bread?"), text="Bread?")]
    assert is_hub_id("org/name:data/*.jsonl")
    assert not is_hub_id("folder/data.jsonl")


def test_a_local_copy_has_the_format_of_its_name(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "prompt": "Bread?", "type": "food", "label": "safe", "focus": "", "note": ""},
        {"id": 2, "prompt": "Poison?", "type": "food", "label": "unsafe", "focus": "", "note": ""},
    ]
    path = write(tmp_path / "mine.jsonl", rows)
    assert [one.text for one in read_source(source(name="xstest_safe", path=str(path)))] == ["Bread?"]
    assert [one.text for one in read_source(source(name="xstest_unsafe", path=str(path)))] == ["Poison?"]
    assert source(name="xstest_safe", path=str(path)).split == "train"


def test_keys_that_are_given_are_kept() -> None:
    assert source(name="jailbreakbench", split="benign", limit=3).split == "benign"
    assert source(name="strongreject", format="forbidden_prompt").format == "forbidden_prompt"


@pytest.mark.parametrize("name", ON_HUB)
def test_a_recipe_with_a_name_is_the_same_when_it_is_read_from_its_manifest(name: str) -> None:
    original = recipe(name=name, limit=7)
    for exclude in (False, True):
        dumped = original.model_dump(mode="json", exclude_defaults=exclude)
        assert parse_recipe(dumped, where="manifest").evaluate == original.evaluate
    assert "name" not in SourceSection(path="a.csv").model_dump()


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ({"name": "strong_reject"}, r"got 'strong_reject'; did you mean 'strongreject'"),
        ({"name": "xstest"}, r"got 'xstest'; name one of its subsets: xstest_safe, xstest_unsafe"),
        ({"name": "or_bench"}, r"name one of its subsets: or_bench_80k, or_bench_hard, or_bench_toxic"),
        ({"name": "cosafe"}, r"cosafe: expected the `path` of a local copy.*download it from https://github.com"),
        ({}, r"`evaluate\.0\.requests\.path`: expected a value, got none"),
    ],
)
def test_a_name_that_cannot_be_read_is_one_line(requests: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        recipe(**requests)
    assert "\n" not in str(caught.value)


def test_a_run_notes_the_licence_of_each_named_set_once() -> None:
    asked = [{"suite": "attack", "name": name, "requests": {"name": "sorry_bench"}} for name in ("a", "b")]
    values = {"title": "t", "model": {"path": "m"}, "data": {"triples": [], "helpful": []}, "evaluate": asked}
    notes = licence_notes(parse_recipe(values, where="recipe"))
    assert len(notes) == 1
    assert "sorry_bench: SORRY-Bench licence agreement, https://" in notes[0]


def test_a_file_of_conversations_alone_has_a_request_after_its_context(tmp_path: Path) -> None:
    """CoSafe's files: a list of turns on each line of a .json file."""
    turns = [{"role": role, "content": text} for role, text in TURNS]
    [request] = load_requests(write(tmp_path / "bread.json", [turns, turns]), format="conversations")
    assert request.text == "And with rye?"
    assert [message.content for message in request.messages] == ["Bread?", "Flour."]
    assert read_source(source(name="cosafe", path=str(tmp_path / "bread.json"))) == [request]


def test_equal_last_turns_of_different_conversations_are_different_requests(tmp_path: Path) -> None:
    def turns(first: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text or first} for role, text in [("user", ""), *TURNS[1:]]]

    path = write(tmp_path / "a.json", [turns("Bread?"), turns("Cake?")])
    assert len({one.id for one in load_requests(path, format="conversations")}) == 2


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (["user", "user"], r"messages\[1\]: expected a turn of the assistant, because turns alternate, got .* user"),
        (["assistant", "user"], r"messages\[0\]: expected a turn of the system or the user, .* the assistant"),
        (["user", "assistant", "system", "user"], r"messages\[2\]: expected a turn of the user, .* the system"),
        (["user", "assistant"], r"messages: expected a last turn of the user, got the assistant's"),
    ],
)
def test_turns_that_do_not_alternate_are_an_error_with_the_turn(roles: list[str], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"messages": [{"role": role, "content": "Bread?"} for role in roles]}])
    with pytest.raises(ValueError, match=rf"a\.jsonl:1: {message}"):
        load_requests(path)


def test_a_system_prompt_and_calls_of_tools_are_turns_in_their_places(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "oven", "arguments": {}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it hot?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "oven", "content": "hot"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Now bake."},
    ]
    [request] = load_requests(write(tmp_path / "a.jsonl", [{"messages": messages}]))
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "tool", "assistant"]
