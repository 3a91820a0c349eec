"""`derta report` on verdicts of an older version of a judge: they are judged again, because they lack what is new."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from derta.files import read_records, write_records
from derta.pipeline.report import report
from derta.provenance import case_hash
from derta.records import Prompt, Reply, Verdict
from small_run import Finished


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
def test_verdicts_of_an_older_judge_do_not_count_as_no_malformed_refusal(finished: Finished, tmp_path: Path, word: str):
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    contents = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(contents | {"refusal_words": [word]}))
    make_malformed(folder, word)
    num_old = len(list(read_records(folder / "derta-seed0/verdicts.refusal.jsonl", Verdict)))
    summary = report(folder)
    rates = {
        (cell.suite, cell.name): cell for cell in summary.cells if (cell.method, cell.measure) == ("derta", "malformed")
    }
    assert {suite for suite, _ in rates} == {"attack", "over_refusal"}
    assert all(cell.value == 1 and cell.unscored == 0 for cell in rates.values())
    superseded = list(read_records(folder / "derta-seed0/verdicts.refusal.superseded.jsonl", Verdict))
    assert len(superseded) == num_old
    assert report(folder).cells == summary.cells


def test_only_the_recipe_s_refusal_words_are_malformed(finished: Finished, tmp_path: Path):
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    make_malformed(folder, "Unfortunately")
    cells = [one for one in report(folder).cells if (one.method, one.measure) == ("derta", "malformed")]
    assert cells
    assert all(cell.value == 0 for cell in cells)
