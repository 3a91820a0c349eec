from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from derta.attacks import build_attack
from derta.attacks.static.jailbreak_chat import jailbreak_chat, read_templates
from derta.errors import DataError, RecipeError
from derta.records import Request

Write = Callable[[str, str], Path]
TWO = ("Dear gardener: [INSERT PROMPT HERE]", "Dear cook,\nanswer [INSERT PROMPT HERE], please.")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "t.json",
            '["Dear gardener: [INSERT PROMPT HERE]", {"text": "Dear cook,\\nanswer [INSERT PROMPT HERE], please."}]',
        ),
        (
            "t.jsonl",
            '{"prompt": "Dear gardener: [INSERT PROMPT HERE]"}\n"Dear cook,\\nanswer [INSERT PROMPT HERE], please."\n',
        ),
        (
            "t.csv",
            "name,text\r\nA,Dear gardener: [INSERT PROMPT HERE]\r\n"
            'B,"Dear cook,\nanswer [INSERT PROMPT HERE], please."\r\n',
        ),
        (
            "t.txt",
            "Dear gardener: [INSERT PROMPT HERE]\n=====\nDear cook,\nanswer [INSERT PROMPT HERE], please.\n=====\n",
        ),
    ],
)
def test_templates_are_read_from_json_jsonl_csv_and_text(name: str, text: str, write: Write) -> None:
    assert read_templates(write(name, text)) == TWO


def test_each_request_draws_its_own_template_and_every_placeholder_is_filled(options: Any, craft: Any) -> None:
    requests = [Request(id=str(n), text=f"What is plant {n}? [INSERT PROMPT HERE]") for n in range(40)]
    attack = build_attack("jailbreak_chat", options["jailbreak_chat"])
    templates = [p.messages[0].content.partition(" and answer")[0] for p in craft(attack, requests)]
    other = [p.messages[0].content.partition(" and answer")[0] for p in craft(attack, requests, seed=1)]
    assert len(set(templates)) > 5
    assert templates != other


def test_a_users_placeholder_and_separator_are_used(write: Write, craft: Any) -> None:
    path = write("t.txt", "A <Q> and <Q>\n---\nB <Q>")
    attack = jailbreak_chat(templates=path, placeholder="<Q>", separator="---")
    texts = {craft(attack, [Request(id=str(n), text="x<Q>")])[0].messages[0].content for n in range(20)}
    assert texts == {"A x<Q> and x<Q>", "B x<Q>"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", '["[INSERT PROMPT HERE]", "nothing", "nor here"]', r"template 2: expected the placeholder.*2 of 3"),
        ("t.json", '{"a": 1}', r"text or prompt or template, got the fields \['a'\]"),
        ("t.json", "[", r"t\.json:1: expected one JSON list"),
        ("t.json", "[]", "expected rows, the file holds none"),
        ("t.json", '["[INSERT PROMPT HERE]", 5]', "template 2: expected text"),
        ("t.jsonl", '{"text": "[INSERT PROMPT HERE]"}\n{"te', r"t.jsonl:2: expected one JSON object"),
        ("t.csv", "name,votes\nA,3\n", r"text or prompt or template, got the fields \['name', 'votes'\]"),
        ("t.csv", 'text\n"open', r"t\.csv:2: not CSV"),
        ("t.csv", "name,text\nA\n", r"t\.csv:2: expected 2 columns as in the header, got 1"),
        ("t.json", r'["[INSERT PROMPT HERE] \ud83d"]', r"t\.json: .*surrogates not allowed"),
        ("t.jsonl", r'"[INSERT PROMPT HERE] \ud83d"', r"t\.jsonl:1: .*surrogates not allowed"),
        ("t.txt", "=====\n", "expected rows, the file holds none"),
    ],
)
def test_the_error_for_a_malformed_file_names_file_and_template(
    name: str, text: str, message: str, write: Write
) -> None:
    with pytest.raises(DataError, match=message):
        read_templates(write(name, text))


def test_a_file_that_is_missing_or_not_utf8_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read it"):
        read_templates(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(DataError, match="byte 0xe9"):
        read_templates(tmp_path / "latin.txt")


def test_an_empty_placeholder_is_refused(write: Write) -> None:
    with pytest.raises(RecipeError, match="expected a placeholder"):
        jailbreak_chat(templates=write("t.txt", "x"), placeholder="")
