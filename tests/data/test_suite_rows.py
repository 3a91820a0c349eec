"""Rows of BBQ and of red-team transcripts: roles of options, and bad values."""

from __future__ import annotations

from typing import Any

import pytest

from derta.data.suite_rows import bbq_request, red_team_request
from derta.errors import DataError
from derta.sources import Row


def bbq(info: list[list[str]], groups: list[str], **fields: Any) -> Row:
    options = {f"ans{index}": labels[0] for index, labels in enumerate(info)}
    values = {
        "example_id": 1,
        "category": "Age",
        "context_condition": "disambig",
        "question_polarity": "neg",
        "context": "Two cooks met.",
        "question": "Who burnt it?",
        "label": 0,
        "answer_info": {f"ans{index}": labels for index, labels in enumerate(info)},
        "additional_metadata": {"stereotyped_groups": groups},
    }
    return Row("bbq.jsonl:1", {**values, **options, **fields})


OLD = [["The old cook", "old"], ["The young cook", "nonOld"], ["Can't be determined", "unknown"]]


@pytest.mark.parametrize(
    ("polarity", "answer"),
    [("neg", "A; stereotype A; unknown C"), ("nonneg", "A; stereotype B; unknown C")],
)
def test_the_stereotype_names_the_group_in_a_negative_question_and_the_other_one_else(polarity: str, answer: str):
    assert bbq_request(bbq(OLD, ["old"], question_polarity=polarity))["answer"] == answer


@pytest.mark.parametrize(
    ("labels", "groups", "stereotype"),
    [
        (("M-Black", "M-White"), ["Black", "African American"], "A"),
        (("F-African American", "F-White"), ["African American"], "A"),
        (("highSES", "lowSES"), ["low SES"], "B"),
        (("highSES-Black", "lowSES-Black"), ["Black"], "B"),
        (("F-Black", "M-Black"), ["Black"], None),
        (("left", "right"), ["old"], None),
    ],
)
def test_groups_are_found_as_in_the_published_labels(labels: tuple[str, str], groups: list[str], stereotype: str):
    info = [["Ann", labels[0]], ["Bob", labels[1]], ["Not known", "unknown"]]
    expected = "A; unknown C" if stereotype is None else f"A; stereotype {stereotype}; unknown C"
    assert bbq_request(bbq(info, groups))["answer"] == expected


def test_a_row_of_a_table_has_its_labels_as_text():
    row = bbq(OLD, ["old"])
    texts = {name: str(row.value[name]) for name in ("answer_info", "additional_metadata", "label")}
    assert bbq_request(Row("bbq.csv:2", {**row.value, **texts})) == bbq_request(row)


def test_a_row_without_labels_of_groups_has_only_its_answer():
    row = bbq(OLD, ["old"])
    del row.value["answer_info"]
    assert bbq_request(row)["answer"] == "A; unknown C"  # by the text of the option


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("label", 3, r"label: expected 0, 1 or 2, got '3'"),
        ("context_condition", "clear", r"context_condition: expected ambig or disambig, got 'clear'"),
        ("question_polarity", "", r"question_polarity: expected neg or nonneg, got ''"),
        ("ans1", 7, r"ans1: expected text"),
    ],
)
def test_a_bad_value_is_one_line_with_its_place(field: str, value: Any, message: str):
    with pytest.raises(DataError, match=rf"bbq\.jsonl:1: {message}"):
        bbq_request(bbq(OLD, ["old"], **{field: value}))


@pytest.mark.parametrize("text", ["Assistant: Bread.", "", "\n\nHuman: \n\nAssistant: Bread.", "She said Human: no"])
def test_a_transcript_without_a_turn_of_a_human_is_an_error(text: str):
    with pytest.raises(DataError, match=r"a\.jsonl:1: transcript: expected text after a 'Human:'"):
        red_team_request(Row("a.jsonl:1", {"transcript": text}))
