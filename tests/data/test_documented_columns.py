"""docs/data.md names every column that is read without a mapping, and a mapping reaches all kinds of data."""

import re
from pathlib import Path

import pytest

from derta.columns import CONTEXT, REPLY, REQUEST
from derta.data.context import CONTEXT_FIELDS
from derta.data.conversations import EARLIER
from derta.data.helpful import load_examples
from derta.data.helpful_formats import ANSWER
from derta.data.preferences import load_preferences
from derta.data.requests import load_requests
from derta.data.triple_formats import HARMFUL, SAFE
from derta.data.triples import load_triples
from derta.errors import DataError

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("## Columns")[2].partition("## What is left out")[0]


@pytest.mark.parametrize(
    "names",
    [REQUEST, SAFE, HARMFUL, REPLY, ANSWER, CONTEXT, CONTEXT_FIELDS, EARLIER],
    ids=["request", "safe", "harmful", "reply", "answer", "context", "context_fields", "earlier"],
)
def test_every_accepted_column_is_in_the_docs(names):
    documented = {*re.findall(r"`(\w+)`", TABLE)}
    assert [name for name in names if name not in documented] == []


@pytest.mark.parametrize(
    ("load", "columns", "read"),
    [
        (load_triples, {"query": "a", "safe": "b", "harmful": "c"}, lambda one: (one.query, one.safe, one.harmful)),
        (
            load_examples,
            {"prompt": "a", "response": "b"},
            lambda one: (one.messages[0].content, one.messages[1].content, "y"),
        ),
        (
            load_preferences,
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            lambda one: (one.query, one.chosen, one.rejected),
        ),
        (load_requests, {"question": "a"}, lambda one: (one.text, "Sorry, no.", "y")),
    ],
)
def test_a_mapping_of_columns_is_read_by_every_kind_of_data(load, columns, read, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('a,b,c\nBread?,"Sorry, no.",y\n')
    [one] = load(path, columns=columns)
    assert read(one) == ("Bread?", "Sorry, no.", "y")


@pytest.mark.parametrize("load", [load_triples, load_examples, load_preferences, load_requests])
def test_a_file_of_unknown_columns_is_an_error_with_its_columns_and_the_accepted_ones(load, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("Frage,gut\nBrot?,Nein.\n")
    with pytest.raises(DataError) as error:
        load(path)
    message = str(error.value)
    assert message.startswith(f"{path}:2: no known format has the fields ")
    assert "Frage, gut" in message or "frage, gut" in message
    assert "expected one of: " in message
    assert "map the names with `columns: {NAME: FIELD}`, or rename the fields" in message
    with pytest.raises(DataError, match=r"columns: unknown name 'prompts'; did you mean 'prompt'"):
        load(path, columns={"prompts": "Frage"})
    with pytest.raises(DataError, match=r"of the file for 'prompt', got 'frag'; did you mean 'Frage'"):
        load(path, columns={"prompt": "frag"})
