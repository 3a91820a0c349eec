"""Stacked bars: the kinds of the replies to each attack."""

import pytest

from derta.records import Verdict
from derta.reporting import render_report
from derta.reporting.outcome_bars import SEGMENTS, outcome_groups


def judged(make_transcript, *verdicts, request_id, method="derta"):
    row = make_transcript("x", request_id=request_id, method=method)
    made = tuple(
        Verdict.model_validate({"prompt_id": row.prompt.id, "judge": f"j{number}", **fields})
        for number, fields in enumerate(verdicts)
    )
    return row.model_copy(update={"verdicts": made})


def test_each_reply_has_one_kind_and_garbled_text_is_no_refusal(make_transcript):
    refused, malformed = {"refused": True}, {"refused": False, "reply_class": "malformed"}
    rows = [
        judged(make_transcript, {"harmful": True}, refused, request_id="1"),
        judged(make_transcript, {"harmful": False}, refused, request_id="2"),
        judged(make_transcript, {"harmful": False}, malformed, request_id="3"),
        judged(make_transcript, {"harmful": False}, {"refused": False}, request_id="4"),
        judged(make_transcript, {}, request_id="5"),
    ]
    ((bar,),) = [group.bars for group in outcome_groups(rows, methods=["derta"])]
    assert {part.kind: part.number for part in bar.parts} == dict.fromkeys(SEGMENTS, 1)
    assert sum(part.share for part in bar.parts) == pytest.approx(1)


def test_the_numbers_are_in_a_table(make_summary, make_cell, make_transcript, parse):
    rows = [judged(make_transcript, {"harmful": True}, request_id=str(i)) for i in range(3)]
    page = parse(render_report(make_summary((make_cell([True]),)), rows))
    cells = [data for path, data in page.texts if path[-1:] == ("td",) and "figure" in path]
    assert cells == ["3", "0", "0", "0", "0", "3"]


def test_without_a_judge_of_harm_other_replies_are_not_called_harmless(make_summary, make_cell, make_transcript, parse):
    rows = [judged(make_transcript, {"refused": False}, request_id="1")]
    text = parse(render_report(make_summary((make_cell([True], measure="refused"),)), rows)).text
    assert "no judge of harm was run, so it may be harmful" in text
