import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.formats.labels import read_labels
from derta.formats.repeats import scan_rows
from derta.formats.replies import read_cases
from derta.sources import Row
from small_run import write_jsonl


def rows_of(*pairs: tuple[str, str], **more: Any) -> list[dict[str, Any]]:
    return [{"question": question, "response": response, **more} for question, response in pairs]


def test_rows_that_pad_a_batch_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    pairs = [(f"Question {i}?", f"Reply {i % 3}.") for i in range(9)]
    path = write_jsonl(tmp_path / "a.jsonl", rows_of(*pairs[:5], pairs[0], *pairs[5:], pairs[1], label=1))
    assert [case.prompt.request for case in read_cases(path)] == [question for question, _ in pairs]
    assert caplog.messages == [f"{path}: 2 of 11 rows repeat another row and are left out"]
    assert len([*read_labels(path, measure="harmful")]) == 9


def test_a_file_that_was_written_twice_counts_once(tmp_path: Path):
    rows = rows_of(("Tea?", "No."), ("Rye?", "Yes."))
    assert len([*read_cases(write_jsonl(tmp_path / "a.jsonl", rows + rows))]) == 2


def test_equal_samples_of_a_prompt_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "derta")
    rows = rows_of(*[(q, r) for q in ("Tea?", "Rye?", "Oat?") for r in ("No.", "No.", f"{q} Yes.")])
    assert len([*read_cases(write_jsonl(tmp_path / "a.jsonl", rows))]) == 9
    assert "3 of 9 rows equal another row and are counted: most prompts have several replies" in caplog.text


@pytest.mark.parametrize(
    "rows",
    [
        ["No.", "No."],
        [{"response": "No."}] * 2,
        [{"question": "7", "response": "No.", "label": "0"}] * 2,
        rows_of(("Tea?", "No."), ("Tea?", "No"), ("Rye?", "No."), ("Oat?", "No.")),
        [row | {"attack": attack} for row in rows_of(("Tea?", "No.")) for attack in ("a", "b")],
        [row | {"model": model} for row in rows_of(("Tea?", "No.")) for model in ("a", "b")],
        [row | {"id": i} for row in rows_of(("Tea?", "No.")) for i in (1, 2)],
        [row | {"sample": i} for row in rows_of(("Tea?", "No.")) for i in (1, 2)],
    ],
)
def test_rows_that_may_be_of_different_prompts_are_no_repeats(tmp_path: Path, rows: list[Any]):
    assert len([*read_cases(write_jsonl(tmp_path / "a.jsonl", rows))]) == len(rows)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=12))
def test_the_filter_leaves_each_row_once_unless_they_are_samples(pairs: list[tuple[int, int]]):
    values = [{"question": f"q{question}", "response": f"r{response}"} for question, response in pairs]
    rows = [Row(f"a:{i}", value) for i, value in enumerate(values)]
    scan = scan_rows(rows)
    assert scan.num_equal == len(pairs) - len({*pairs})
    left = [json.dumps(row.value) for row in rows if not scan.is_repeat(row)]
    assert (
        left == [json.dumps(one) for one in values]
        if scan.sampled
        else left == [*dict.fromkeys(map(json.dumps, values))]
    )


@pytest.mark.parametrize(("ids", "expected"), [([1, 2], True), ([1, 1], False), ([1, None], False), ([1, ""], False)])
def test_ids_are_used_if_every_row_has_its_own(tmp_path: Path, ids: list[Any], expected: bool):
    rows = [{"id": one, "question": f"q{i}", "response": "r"} for i, one in enumerate(ids)]
    names = [case.prompt.id for case in read_cases(write_jsonl(tmp_path / "a.jsonl", rows))]
    assert names == (["1", "2"] if expected else ["row-0", "row-1"])


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "index", "idx"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_running_number_makes_no_row_different(tmp_path: Path, name: str, first: int):
    rows = rows_of(("Tea?", "No."), ("Rye?", "Yes."), ("Oat?", "No."), ("Tea?", "No."))
    path = tmp_path / "a.csv"
    lines = [f"{number},{row['question']},{row['response']}" for number, row in enumerate(rows, start=first)]
    path.write_text("\n".join([f"{name},question,response", *lines]), encoding="utf-8")
    assert len([*read_cases(path)]) == 3


@pytest.mark.parametrize("numbers", [[0, 1, 2, 7], [5, 3, 9, 1], ["a", "b", "c", "d"], [0, 1, 2, None]])
def test_a_number_that_does_not_run_is_of_the_row(tmp_path: Path, numbers: list[Any]):
    rows = rows_of(("Tea?", "No."), ("Rye?", "Yes."), ("Oat?", "No."), ("Tea?", "No."))
    path = write_jsonl(tmp_path / "a.jsonl", [row | {"index": one} for row, one in zip(rows, numbers, strict=True)])
    assert len([*read_cases(path)]) == 4
