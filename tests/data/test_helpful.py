import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from derta.data.helpful import HELPFUL_FORMATS, load_examples, read_examples
from derta.errors import DataError
from derta.files import write_records

ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": "bread?"}, {"role": "assistant", "content": "flour"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "bread?"}, {"from": "gpt", "value": "flour"}]},
    "alpaca": {"instruction": "bread?", "input": "", "output": "flour"},
    "aisafetylab": {"input": "bread?", "output": "flour", "label": 0},
    "text": {"text": " Bread needs flour.\n"},
}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", HELPFUL_FORMATS)
def test_every_format_is_detected_by_its_fields_and_parsed_as_the_example(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "kitchen.json", [ROWS[name]])
    read = read_examples(path)
    turns = [(m.role, m.content) for m in read.examples[0].messages]
    raw = name == "text"
    assert turns == ([] if raw else [("user", "bread?"), ("assistant", "flour")])
    assert read.examples[0].text == ("Bread needs flour." if raw else None)
    assert read.examples[0].source == "kitchen"
    assert read == read_examples(path, format=name)


def test_an_input_is_below_its_instruction_and_optional(tmp_path: Path) -> None:
    rows = [{"instruction": "Sort.", "input": "b, a", "output": "a, b"}, {"instruction": "Hello", "output": "Hi"}]
    read = read_examples(write(tmp_path / "a.json", rows))
    assert [example.messages[0].content for example in read.examples] == ["Sort.\n\nb, a", "Hello"]


def test_a_text_beside_an_instruction_is_its_other_form_and_an_empty_one_is_dropped(tmp_path: Path) -> None:
    [example] = read_examples(write(tmp_path / "a.json", [{**ROWS["alpaca"], "text": "bread? flour"}])).examples
    assert example.text is None
    read = read_examples(write(tmp_path / "b.json", [ROWS["text"], {"text": " "}]))
    assert (len(read.examples), read.dropped) == (1, Counter(empty_text=1))


def test_every_role_of_sharegpt_is_known(tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "bread?"), ("assistant", "flour"), ("human", "salt?"), ("gpt", "yes")]
    rows = [{"conversations": [{"from": role, "value": text} for role, text in turns]}]
    [example] = read_examples(write(tmp_path / "a.json", rows)).examples
    assert [message.role for message in example.messages] == ["system", "user", "assistant", "user", "assistant"]


def test_an_input_without_an_instruction_adds_no_blank_lines(tmp_path: Path) -> None:
    rows = [{"instruction": "", "input": "b, a", "output": "a, b"}, ROWS["alpaca"]]
    read = read_examples(write(tmp_path / "a.json", rows))
    assert [example.messages[0].content for example in read.examples] == ["bread?"]
    assert read.dropped == Counter(empty_turn=1)


def test_loading_logs_what_was_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [ROWS["alpaca"], {"instruction": "Tea?", "output": ""}]
    assert len(load_examples(write(tmp_path / "a.json", rows))) == 1
    assert caplog.messages == [f"{tmp_path}/a.json: 1 helpful examples; dropped: 1 empty_turn"]


def test_written_examples_are_read_back(tmp_path: Path) -> None:
    for name in ("messages", "text"):
        examples = read_examples(write(tmp_path / "a.json", [ROWS[name]])).examples
        write_records(tmp_path / "a.jsonl", examples)
        assert read_examples(tmp_path / "a.jsonl").examples == examples


def test_refusals_and_harmful_answers_are_not_helpful_rows(tmp_path: Path) -> None:
    rows = [
        {"input": "q", "output": "no", "label": 1},
        {"input": "q", "output": "yes", "label": 2},
        ROWS["aisafetylab"],
    ]
    assert len(read_examples(write(tmp_path / "a.json", rows)).examples) == 1


def test_rows_without_an_answer_or_with_an_empty_turn_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [
        ROWS["messages"],
        {"messages": ROWS["messages"]["messages"][:1]},
        {"messages": [*ROWS["messages"]["messages"], {"role": "user", "content": "thanks"}]},
        {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "flour"}]},
        {"messages": []},
    ]
    read = read_examples(write(tmp_path / "a.json", rows))
    assert len(read.examples) == 1
    assert read.dropped == Counter(no_answer=3, empty_turn=1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"title": "bread"}], r"a\.json\[0\]: no known format has the fields title; expected one of: messages"),
        ([ROWS["alpaca"], {"instruction": "bread?"}], r"a\.json\[1\]: expected a field 'output', got instruction"),
        ([{"messages": "bread?"}], r"a\.json\[0\]: messages: expected a list of turns, got a str"),
        ([{"messages": ["bread?"]}], r"a\.json\[0\]: messages\[0\]: expected an object"),
        ([{"messages": [{"role": "user"}]}], r"a\.json\[0\]: messages\[0\]: expected a field 'content', got role"),
        ([{"messages": [{"role": "cook", "content": "x"}, ROWS["messages"]["messages"][1]]}], r"not a example: .*role"),
        (
            [{"instruction": "bread?", "output": " "}],
            r"a\.json: expected helpful rows, found none \(\{'empty_turn': 1\}\)",
        ),
    ],
)
def test_an_invalid_row_is_reported_with_file_and_place(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_examples(write(tmp_path / "a.json", rows))
