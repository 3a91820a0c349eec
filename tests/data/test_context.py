"""The context of a request in files: a system prompt, earlier turns, tool calls and results, tool definitions."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from derta.data.context import context_of
from derta.data.triples import load_triples, read_triples
from derta.errors import DataError
from derta.files import write_records
from derta.records import Message, Triple
from derta.sources import Row

TURNS = [
    {"role": "user", "content": "What is dough?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "look", "arguments": {"word": "dough"}}}],
    },
    {"role": "tool", "content": "Flour with water.", "name": "look"},
    {"role": "assistant", "content": "Flour with water."},
]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
FIELDS = {"query": "And bread?", "safe": "Sorry, no.", "harmful": "Bake it."}
TRIPLE = Triple(
    **FIELDS,
    messages=(Message(role="system", content="Be brief."), *(Message.model_validate(turn) for turn in TURNS)),
    harmful_turns=(4,),
    tools=tuple(TOOLS),
)
COLUMNS = {"system": "Be brief.", "messages": TURNS, "harmful_turns": [3], "tools": TOOLS}
TEXTS = {name: json.dumps(value) if name != "system" else value for name, value in COLUMNS.items()}


def test_triples_with_context_survive_a_file(tmp_path):
    write_records(tmp_path / "triples.jsonl", [TRIPLE, TRIPLE.model_copy(update={"tools": None})])
    assert load_triples(tmp_path / "triples.jsonl") == [TRIPLE, TRIPLE.model_copy(update={"tools": None})]


@pytest.mark.parametrize("columns", [COLUMNS, TEXTS])
def test_context_is_read_from_lists_and_from_json_in_texts(tmp_path, columns):
    (tmp_path / "triples.jsonl").write_text(json.dumps(FIELDS | columns))
    assert load_triples(tmp_path / "triples.jsonl") == [TRIPLE]


@pytest.mark.parametrize(
    "messages",
    [
        [
            {"role": "user", "content": [{"type": "text", "text": "What is dough?"}]},
            {"role": "assistant", "content": "?"},
        ],
        [{"from": "human", "value": "What is dough?"}, {"from": "gpt", "value": "?"}],
        {"role": ["user", "assistant"], "content": ["What is dough?", "?"]},
    ],
)
def test_context_is_read_from_parts_from_sharegpt_and_from_lists_by_key(tmp_path, messages):
    (tmp_path / "triples.jsonl").write_text(json.dumps(FIELDS | {"messages": messages}))
    [triple] = load_triples(tmp_path / "triples.jsonl")
    assert [(one.role, one.content) for one in triple.messages] == [("user", "What is dough?"), ("assistant", "?")]


def test_context_is_read_from_csv_where_rows_without_it_have_empty_cells(tmp_path):
    rows = [FIELDS | TEXTS, FIELDS | dict.fromkeys(TEXTS, "")]
    with (tmp_path / "triples.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert load_triples(tmp_path / "triples.csv") == [TRIPLE, Triple(**FIELDS)]


def test_context_is_read_from_parquet_where_messages_have_null_fields(tmp_path):
    turns = [{"tool_calls": None, "name": None} | turn for turn in TURNS]
    rows = [FIELDS | COLUMNS | {"messages": turns}, FIELDS | dict.fromkeys(COLUMNS, None)]
    for turn in turns:
        if turn["tool_calls"]:
            turn["tool_calls"] = [{"function": {"name": "look", "arguments": '{"word": "dough"}'}}]
    rows[0]["tools"] = TEXTS["tools"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "triples.parquet")
    first, second = load_triples(tmp_path / "triples.parquet")
    assert first.messages[2].tool_calls[0]["function"]["arguments"] == '{"word": "dough"}'
    assert (first.messages[3:], first.harmful_turns, first.tools) == (TRIPLE.messages[3:], (4,), TRIPLE.tools)
    assert second == Triple(**FIELDS)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"messages": "[{"}, "messages: expected a JSON list, got text that is not JSON"),
        ({"messages": "[" * 100_000}, "messages: expected a JSON list, got text that is not JSON"),
        ({"tools": {"name": "look"}}, "tools: expected a list, got an object"),
        ({"messages": '{"role": "user"}'}, "messages: expected a list, got an object"),
        ({"messages": [{"role": "cook", "content": "Hi."}]}, "not a triple: messages.0.role"),
        ({"messages": [{"from": "cook", "value": "Hi."}]}, "messages[0]: expected a known role and parts with texts"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "(part_is_no_text); fix or remove it"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages must not be empty"),
        ({"messages": TURNS, "harmful_turns": [0]}, "harmful_turns must be indices of assistant messages"),
        ({"messages": TURNS, "harmful_turns": ["x"]}, "not a triple: harmful_turns.0"),
        ({"system": 5}, "system: expected text, got a number"),
    ],
)
def test_an_invalid_context_is_one_line_that_names_the_row(tmp_path, columns, reason):
    (tmp_path / "triples.jsonl").write_text(json.dumps(FIELDS) + "\n" + json.dumps(FIELDS | columns))
    with pytest.raises(DataError) as caught:
        load_triples(tmp_path / "triples.jsonl")
    assert f"{tmp_path / 'triples.jsonl'}:2: " in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_without_context_has_none():
    assert context_of(Row("a", {"query": "q"})) == {"messages": [], "harmful_turns": [], "tools": None}


def test_a_triple_that_a_check_refuses_is_dropped_counted_and_named(tmp_path, caplog):
    rows = [FIELDS, FIELDS | {"system": "Be brief."}, FIELDS | {"system": "Be kind."}]
    (tmp_path / "triples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def fault_of(triple: Triple) -> str | None:
        return "no system role" if triple.messages else None

    read = read_triples(tmp_path / "triples.jsonl", fault_of=fault_of)
    assert (read.triples, dict(read.dropped)) == ([Triple(**FIELDS)], {"refused_by_template": 2})
    assert read.first_fault == f"{tmp_path / 'triples.jsonl'}:2: no system role"
    assert f"{read.first_fault} (2 rows of this file are dropped for such a reason)" in caplog.text
    (tmp_path / "triples.jsonl").write_text(json.dumps(rows[1]))
    with pytest.raises(DataError, match=r"expected triples, .*'refused_by_template': 1.*no system role"):
        read_triples(tmp_path / "triples.jsonl", fault_of=fault_of)
