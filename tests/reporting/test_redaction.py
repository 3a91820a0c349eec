import gzip
import json
from base64 import b64decode

import pytest

from derta.records import Verdict
from derta.reporting import render_report, write_report
from derta.reporting.explorer import explorer
from derta.reporting.redaction import redacted
from derta.results import ScoredAnswer

WORD = "kettle-word"


def benign(row, **verdict):
    changes = {"suite": "over_refusal", "dataset": "benign"}
    rated = Verdict(prompt_id=row.prompt.id, judge="harm", reason=WORD, **verdict)
    return row.model_copy(update={"prompt": row.prompt.model_copy(update=changes), "verdicts": (rated,)})


@pytest.fixture
def filled(make_transcript):
    """Return a reply to an attack with the word in every text."""
    row = make_transcript(
        f"{WORD}. Sorry", request=WORD, prefill=WORD, reason=WORD, refusal_at=13, token_starts=(0, 11, 13)
    )
    answered = {"answer": WORD, "steps": (WORD,), "tools": ({"name": WORD},)}
    return row.model_copy(
        update={
            "prompt": row.prompt.model_copy(update=answered),
            "reply": row.reply.model_copy(update={"reason": WORD, "token_ids": (1, 2, 3)}),
            "refusal_probability": (0.1, 0.2, 0.9),
        }
    )


def test_no_text_of_an_attack_is_left(filled):
    [row] = redacted([filled])
    assert WORD not in row.model_dump_json()
    assert (row.prompt.id, row.verdicts[0].harmful, row.verdicts[0].refusal_at) == ("direct-r1", False, 13)


def test_the_page_has_no_text_of_attacks_and_the_same_numbers(filled, make_summary, make_cell, tmp_path):
    answer = ScoredAnswer(
        method="derta", seed=0, request_id="r1", request=WORD, text=WORD, token_starts=(0, 6),
        refusal_probability=(0.5, 0.75),
    )  # fmt: skip
    summary = make_summary((make_cell([True, False, False, False]),))
    page = render_report(summary, [filled], answers=[answer], redact=True)
    data = json.loads(gzip.decompress(b64decode(explorer(redacted([filled]), styles={"derta": 0}).data)))
    assert WORD not in page + str(data)
    assert data["groups"][0]["requests"][0]["replies"][0]["position"] == "refusal starts at character 14"
    assert "Redacted." in page
    assert all(number in page for number in ("25.0", "90.0", "75.0"))
    whole = render_report(summary, [filled], answers=[answer])
    assert WORD in whole
    write_report(tmp_path / "whole", summary, [filled], answers=[answer])
    write_report(tmp_path / "redacted", summary, [filled], answers=[answer], redact=True)
    texts = [(tmp_path / name / "summary.json").read_text() for name in ("whole", "redacted")]
    assert texts[0] == texts[1]
    assert WORD not in texts[0]


def test_a_reply_to_a_benign_request_is_left_out_only_if_a_judge_calls_it_harmful(make_transcript):
    row = make_transcript(WORD, request="Tea?")
    harmful, thought, harmless = redacted(
        [benign(row, harmful=True), benign(row, harmful=False, harmful_thought=True), benign(row, harmful=False)]
    )
    for one in (harmful, thought):
        assert (one.prompt.request, one.reply.text, one.verdicts[0].reason) == ("Tea?", "redacted", "redacted")
    assert (harmless.reply.text, harmless.verdicts[0].reason) == (WORD, WORD)


def test_an_empty_reply_stays_empty(make_transcript):
    [row] = redacted([make_transcript("", reason="")])
    assert (row.reply.text, row.verdicts[0].reason) == ("", "")
