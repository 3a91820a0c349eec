import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from derta.cli.tables import curve_table, replay_table
from derta.errors import DataError
from derta.paper.replay import mean_absolute_difference, replay_folder, shares_begun
from derta.records import Reply, Verdict


def refused(text: str, at: int) -> tuple[Reply, Verdict]:
    return Reply(prompt_id="1", text=text), Verdict(prompt_id="1", judge="refusal", refused=True, refusal_at=at)


def test_shares_begun_are_cumulative():
    judged = [refused("Sorry, no", 0), refused("one two Sorry", 8), refused("a b c d e Sorry", 10)]  # words 1, 3, 6
    assert shares_begun(judged, (1, 2, 3, 5, 6, 100)) == pytest.approx((1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1))
    assert shares_begun([], (1,)) is None


def test_an_empty_folder_is_a_mistake(tmp_path: Path):
    with pytest.raises(DataError, match="expected the published outputs"):
        replay_folder(tmp_path)


@pytest.mark.data
def test_the_published_outputs_are_replayed():
    root = os.environ.get("DERTA_DATA")
    if not root:
        pytest.skip("set DERTA_DATA to the folder of public research data")
    rows = replay_folder(Path(root) / "published")
    by_file = {row.file: row for row in rows}
    assert len(rows) == 27
    off = {row.file: row.difference for row in rows if row.measure == "correct" and abs(row.difference or 0) > 1.5}
    assert list(off) == ["mmlu_llama3-8b_vanill.jsonl"]  # 257 right letters in the file, 245 in the paper
    distance = mean_absolute_difference(rows, measure="harmful")
    assert distance is not None
    assert distance <= 6  # measured 3.85, over the six files with a figure; the judge saw none of them in training
    for row in rows:
        assert row.measure != "agreement" or (row.ours or 0) >= 95  # measured 96.7, 95.1, 95.7
        assert row.measure != "says_sorry" or abs(row.difference or 9) <= 1
    vanilla = by_file["refusal_position_vanilla"].curve
    assert vanilla is not None
    assert all(abs(a - b) <= 5 for a, b in zip(vanilla.ours[1:], vanilla.paper[1:], strict=True))
    console = Console(width=200, record=True, file=StringIO())
    console.print(replay_table(rows), curve_table(rows))
    assert "gsm8k_llama3-8b_derta" in console.export_text()
