"""`derta pairwise` through the real command line, with a scripted judge; and how replies are matched."""

import json

import pytest

from derta.files import read_records
from derta.judges.pairwise import Preference
from derta.pipeline.pairwise import match_pairs
from scripted_judge import SCRIPTED
from small_run import write_jsonl


def test_the_win_rate_counts_both_orders(scripted, tmp_path, derta):
    mine = write_jsonl(
        tmp_path / "mine.jsonl", [{"question": f"Ask {i}?", "response": "long " * (i + 1)} for i in range(8)]
    )
    theirs = tmp_path / "reference.json"
    theirs.write_text(json.dumps([{"instruction": f"Ask {i}?", "output": "yes"} for i in range(2, 9)]))
    out = tmp_path / "preferences.jsonl"
    words = ("pairwise", mine, theirs, *SCRIPTED, "--out", out)
    called = derta(*words, "--json")
    assert called.code == 0, called.err
    assert "3 replies to requests in only one of the files" in " ".join(called.err.split())
    output = json.loads(called.out)
    assert (output["win_rate"]["value"], output["win_rate"]["scored"], output["win_rate"]["method"]) == (1.0, 6, "mine")
    assert output["order_decided"]["value"] == 0
    assert (output["comparison"]["only_first"], output["comparison"]["p_value"]) == (6, pytest.approx(2 / 2**6))
    assert len(scripted) == 12
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:4]))
    called = derta(*words)
    assert "win_rate: 100.0% of 6" in called.out
    assert "won 6, lost 0 of 6; p = 0.031" in called.out
    assert len(scripted) == 16
    assert [one.prompt_id for one in read_records(out, Preference)] == [f"row-{i}" for i in range(2, 8)]


def test_replies_of_runs_are_matched_by_prompt_id(finished, scripted, derta):
    paths = [finished.folder / f"{method}-seed0/replies.jsonl" for method in ("vanilla", "derta")]
    called = derta("pairwise", *paths, *SCRIPTED, "--json")
    assert called.code == 0, called.err
    cell = json.loads(called.out)["win_rate"]
    assert (cell["method"], cell["name"]) == ("vanilla-seed0", "against derta-seed0")
    assert cell["scored"] + cell["unscored"] == 9


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([{"question": "Another?", "response": "Yes."}], "got none in common"),
        ([{"question": "Ask 0?", "response": 3}], "response: expected text, got '3'"),
    ],
)
@pytest.mark.usefixtures("scripted")
def test_files_without_a_common_request_or_of_another_format_are_refused(rows, part, replies, tmp_path, derta):
    called = derta("pairwise", replies, write_jsonl(tmp_path / "theirs.jsonl", rows), *SCRIPTED)
    assert called.code == 2
    assert part in called.err


def test_preferences_on_other_pairs_are_not_resumed_from(replies, scripted, tmp_path, derta):
    out = write_jsonl(tmp_path / "preferences.jsonl", [{"prompt_id": "row-7", "better": "tie"}])
    called = derta("pairwise", replies, replies, *SCRIPTED, "--out", out)
    assert called.code == 2
    assert "cannot resume from 'row-7': no prompt has this id; choose another --out" in called.err


def test_of_a_repeated_request_the_first_reply_is_used(tmp_path):
    rows = [{"question": " Ask?", "response": "one"}, {"question": "Ask? ", "response": "two"}]
    mine = write_jsonl(tmp_path / "mine.jsonl", rows)
    theirs = write_jsonl(tmp_path / "theirs.jsonl", rows[::-1])
    [pair] = match_pairs(mine, theirs)
    assert (pair.ours.text, pair.theirs.text) == ("one", "two")
