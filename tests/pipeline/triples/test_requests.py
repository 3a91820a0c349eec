from __future__ import annotations

from pathlib import Path

import pytest

from derta.config import SourceSection
from derta.errors import DataError
from derta.pipeline.triples.requests import accept_requests, alternates, load_sources
from derta.records import Message, Request
from small_run import write_jsonl


def messages(roles: str) -> list[Message]:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [Message.model_validate({"role": names[role], "content": "Bread."}) for role in roles]


@pytest.mark.parametrize("roles", ["u", "su", "uau", "suau", "uatau", "uattau", "uatu"])
def test_turns_that_alternate(roles: str) -> None:
    assert alternates(messages(roles)) == (roles != "uatu")


@pytest.mark.parametrize("roles", ["uu", "au", "ua", "uaau", "usu", "ssu", "tu", ""])
def test_turns_that_do_not_alternate(roles: str) -> None:
    assert not alternates(messages(roles))


def test_sources_have_limits_and_ids_that_differ(tmp_path: Path) -> None:
    paths = [
        write_jsonl(tmp_path / f"{name}.jsonl", [{"id": str(row), "text": f"Bake {name} {row}?"} for row in range(3)])
        for name in ("bread", "cake")
    ]
    sources = [SourceSection(path=str(path), limit=2) for path in paths]
    assert [one.id for one in load_sources(sources).requests] == ["bread/0", "bread/1", "cake/0", "cake/1"]
    assert [one.id for one in load_sources(sources[:1]).requests] == ["0", "1"]


def test_two_requests_with_one_id_are_refused() -> None:
    with pytest.raises(DataError, match="expected unique ids, got '1'"):
        accept_requests([Request(id="1", text="Bread?"), Request(id="1", text="Cake?")])


def test_no_request_that_can_be_used_is_refused() -> None:
    request = Request(id="1", text="Bread?", messages=tuple(messages("u")))
    with pytest.raises(DataError, match=r"got none that can be used \(1 dropped\)"):
        accept_requests([request])
