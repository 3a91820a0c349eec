"""Rows of strangers: any JSON is a case, a row that is left out, or a mistake with its place."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.columns import ATTACK, CATEGORY, CONTEXT, REPLY, REQUEST, SAMPLE
from derta.errors import DataError
from derta.formats.labels import LABELS, read_labels
from derta.formats.replies import read_cases
from small_run import write_jsonl

COLUMNS = (
    *REQUEST, *REPLY, *CONTEXT, *CATEGORY, *ATTACK, *SAMPLE, "messages", "prefill", "mode", "model", "id", "request_id",
    "answer", "unanswered", "reason", "is_safe", "adversarial", "prompt_harm_label", "m_response", "m_action", "label",
    "a\nb", *LABELS["harmful"], *LABELS["refused"], "prompt_id", "text", "Prompt",
)  # fmt: skip
PARTS = st.fixed_dictionaries({}, optional={"type": st.sampled_from(["text", "reasoning", "image"]), "text": st.text()})
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "developer", "wizard"]),
        "content": st.text(max_size=5) | st.none() | st.lists(PARTS | st.integers(), max_size=2),
        "tool_calls": st.lists(st.dictionaries(st.text(max_size=2), st.text(max_size=2)), max_size=1),
    },
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6) | st.sampled_from(
        ["raw", "chat", "failed", "1", "harmful", "9" * 5000, "row-1"]
    ),
    lambda inner: st.lists(inner | MESSAGES, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)  # fmt: skip
ROWS = st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=7) | VALUES


@given(st.lists(ROWS, min_size=1, max_size=4), st.sampled_from(["a.jsonl", "a.json"]))
def test_any_rows_are_cases_or_a_mistake_with_its_place(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], name: str
):
    path = tmp_path_factory.mktemp("rows") / name
    path.write_text(json.dumps(rows) if name == "a.json" else "".join(json.dumps(row) + "\n" for row in rows))
    for read in (read_cases, lambda one: read_labels(one, measure="harmful")):
        cases, message = list[Any](), name
        try:
            cases = list(read(path))
        except DataError as error:
            message = str(error)
        assert name in message
        assert "\n" not in message
        assert len(cases) <= 2 * len(rows)  # a row with replies of several models is several cases
        assert len({case.reply.key for case in cases}) == len(cases)


DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "jailbreaks": VALUES | st.lists(ROWS, max_size=2),
        "parameters": VALUES,
        "eval": VALUES | st.just({}),
        "samples": VALUES | st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "id": VALUES, "epoch": VALUES, "input": VALUES | st.lists(MESSAGES, max_size=2), "metadata": VALUES,
                    "output": st.fixed_dictionaries({}, optional={"choices": VALUES, "model": VALUES}) | VALUES,
                    "attachments": VALUES, "error": VALUES, "target": VALUES,
                },
            ),
            max_size=2,
        ),
        "tea": st.lists(st.fixed_dictionaries({"test_case": VALUES}, optional={"generation": VALUES, "label": VALUES})),
    },
)  # fmt: skip


@given(DOCUMENTS)
def test_any_document_is_cases_or_a_mistake_with_its_place(tmp_path_factory: pytest.TempPathFactory, document: Any):
    path = tmp_path_factory.mktemp("documents") / "a.json"
    path.write_text(json.dumps(document))
    message = "a.json"
    try:
        list(read_cases(path))
    except DataError as error:
        message = str(error)
    assert "a.json" in message


def test_values_of_other_types_than_a_name_are_not_read(tmp_path: Path):
    row = {"question": "Tea?", "response": "Mix.", "category": ["a"], "attack": {}, "sample": "9" * 5000, "id": 1.5}
    [case] = read_cases(write_jsonl(tmp_path / "a.jsonl", [row]))
    assert (case.prompt.category, case.prompt.attack, case.reply.sample) == (None, "direct", 0)
    assert case.prompt.id == "row-0"
