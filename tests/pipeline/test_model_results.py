"""Results of one model in `derta report`: all of them must be there, and verdicts of an older judge are made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from derta.errors import RunError
from derta.files import read_records, write_records
from derta.pipeline.report import report
from derta.provenance import case_hash
from derta.records import Prompt, Reply, Verdict
from small_run import Finished


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished.folder, tmp_path / "run"))


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("prompts.jsonl", "vanilla seed 0 is not finished"),
        ("derta-seed0/replies.jsonl", "derta seed 0 is not finished"),
        ("derta-seed0/scores.json", "derta seed 0 is not finished"),
        ("derta-seed0/verdicts.harm.jsonl", "harm has not judged all of derta seed 0"),
    ],
)
def test_what_is_not_finished_is_named(lost: str, message: str, copied: Path):
    (copied / lost).unlink()
    with pytest.raises(RunError, match=message):
        report(copied)


def test_a_judging_that_was_stopped_is_not_reported_as_whole(copied: Path):
    path = copied / "derta-seed0/verdicts.refusal.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunError, match="refusal has not judged all of derta seed 0"):
        report(copied)


def make_malformed(folder: Path, word: str) -> None:
    """Make all replies of derta malformed, with verdicts of a judge that had no such class."""
    home = folder / "derta-seed0"
    prompts = {one.id: one for one in read_records(folder / "prompts.jsonl", Prompt)}
    text = f"The wizard took {word} to boil it."
    changes = {"text": text, "token_ids": None, "token_starts": None, "stop_reason": "eos"}
    replies = [one.model_copy(update=changes) for one in read_records(home / "replies.jsonl", Reply)]
    write_records(home / "replies.jsonl", replies)
    hashes = {one.prompt_id: case_hash(prompts[one.prompt_id], one) for one in replies}
    old = {"producer": {"judge": "refusal", "code": "older", "version": ""}, "refused": False, "reply_class": "comply"}
    path = home / "verdicts.refusal.jsonl"
    verdicts = list(read_records(path, Verdict))
    write_records(
        path,
        [
            one.model_copy(update={**old, "refusal_at": None, "reason": "", "input_hash": hashes[one.prompt_id]})
            for one in verdicts
        ],
    )


@pytest.mark.parametrize("word", ["Sorry", "Unfortunately"])
def test_verdicts_of_an_older_judge_do_not_count_as_no_malformed_refusal(copied: Path, word: str):
    contents = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps(contents | {"refusal_words": [word]}))
    make_malformed(copied, word)
    num_old = len(list(read_records(copied / "derta-seed0/verdicts.refusal.jsonl", Verdict)))
    summary = report(copied)
    rates = {
        (cell.suite, cell.name): cell for cell in summary.cells if (cell.method, cell.measure) == ("derta", "malformed")
    }
    assert {suite for suite, _ in rates} == {"attack", "over_refusal"}
    assert all(cell.value == 1 and cell.unscored == 0 for cell in rates.values())
    superseded = list(read_records(copied / "derta-seed0/verdicts.refusal.superseded.jsonl", Verdict))
    assert len(superseded) == num_old
    assert report(copied).cells == summary.cells


def test_only_the_recipe_s_refusal_words_are_malformed(copied: Path):
    make_malformed(copied, "Unfortunately")
    cells = [one for one in report(copied).cells if (one.method, one.measure) == ("derta", "malformed")]
    assert cells
    assert all(cell.value == 0 for cell in cells)
