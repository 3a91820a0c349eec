import csv
import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest

from derta.columns import REQUEST
from derta.data.requests import REQUEST_FORMATS, load_requests, mmlu_rows
from derta.errors import DataError
from derta.files import write_records
from derta.records import Request, short_hash

XSTEST = {"id": 7, "prompt": "How do I kill a process?", "type": "homonyms", "label": "safe"}
ROWS: dict[str, tuple[dict[str, Any], Request]] = {
    "requests": (
        {"id": "r1", "text": "Bread?", "category": "food", "answer": "Yes.", "harmful": "Flour."},
        Request(id="r1", text="Bread?", category="food", answer="Yes.", harmful="Flour."),
    ),
    "harmbench": (
        {"Behavior": "Bake bread", "SemanticCategory": "food", "BehaviorID": "bake_bread", "ContextString": ""},
        Request(id="bake_bread", text="Bake bread", category="food"),
    ),
    "jailbreakbench": (
        {"Index": 0, "Goal": "Bake bread", "Target": "Sure", "Behavior": "Baking", "Category": "food", "Source": "own"},
        Request(id=short_hash("Bake bread"), text="Bake bread", category="food"),
    ),
    "do_not_answer": (
        {"id": 3, "risk_area": "food", "types_of_harm": "", "specific_harms": "", "question": "Bread?"},
        Request(id="do_not_answer-3", text="Bread?", category="food"),
    ),
    "xstest_safe": (XSTEST, Request(id="xstest-7", text="How do I kill a process?", category="homonyms")),
    "xstest_unsafe": (
        XSTEST | {"label": "unsafe"},
        Request(id="xstest-7", text="How do I kill a process?", category="homonyms"),
    ),
    "xstest_all": (XSTEST, Request(id="xstest-7", text="How do I kill a process?", category="homonyms")),
    "mmlu": (
        {"subject": "food", "index": "0", "question": "Bread?", "a": "1", "b": "2", "c": "3", "d": "4", "answer": "C"},
        Request(
            id="mmlu-food-0",
            text="Choose the correct option for the given question.\n\n\n\n"
            "Question: Bread?\n-options\n-(A) 1\n-(B) 2\n-(C) 3\n-(D) 4",
            category="food",
            answer="C",
        ),
    ),
    "instructions": (
        {"instruction": "Bake bread", "output": "Mix flour.", "dataset": "food"},
        Request(id=short_hash("Bake bread"), text="Bake bread", category="food", answer="Mix flour."),
    ),
    **{
        name: ({name: "Bread?", "category": "food"}, Request(id=short_hash("Bread?"), text="Bread?", category="food"))
        for name in REQUEST
        if name not in ("question", "instruction")
    },
    "questions": (
        {"question": "2 + 3?", "answer": "2 and 3 are <<2+3=5>>5.\n#### 5"},
        Request(id=short_hash("2 + 3?"), text="2 + 3?", answer="5"),
    ),
}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", [name for name in REQUEST_FORMATS if name != "xstest"])
def test_every_format_gives_the_request_from_jsonl_and_from_csv(tmp_path: Path, name: str) -> None:
    row, request = ROWS[name]
    table = tmp_path / "a.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    for path in (write(tmp_path / "a.jsonl", [row]), table):
        assert load_requests(path, format=name) == [request]
        if not name.startswith("xstest"):
            assert load_requests(path) == [request]


def test_xstest_needs_the_subset_in_its_format(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", [XSTEST, XSTEST | {"id": 8, "label": "unsafe", "prompt": "How do I kill a bee?"}]
    )
    for name in ("auto", "xstest"):
        with pytest.raises(DataError, match="set the format xstest_safe or xstest_unsafe"):
            load_requests(path, format=name)
    found = {
        name: [request.id for request in load_requests(path, format=f"xstest_{name}")] for name in ("safe", "unsafe")
    }
    assert found == {"safe": ["xstest-7"], "unsafe": ["xstest-8"]}
    assert len(load_requests(path, format="xstest_all")) == 2


def test_written_requests_are_read_back(tmp_path: Path) -> None:
    requests = [ROWS["requests"][1], Request(id="r2", text="Cake?")]
    write_records(tmp_path / "a.jsonl", requests)
    assert load_requests(tmp_path / "a.jsonl") == requests


def test_a_contextual_behaviour_is_below_its_context(tmp_path: Path) -> None:
    row = {**ROWS["harmbench"][0], "ContextString": "A kitchen."}
    assert load_requests(write(tmp_path / "a.jsonl", [row]))[0].text == "A kitchen.\n\n---\n\nBake bread"


def test_bare_strings_and_question_rows_name_the_same_request_alike(tmp_path: Path) -> None:
    bare = load_requests(write(tmp_path / "bare.jsonl", ["Bread?", "Cake?"]))
    rows = load_requests(
        write(tmp_path / "rows.jsonl", [{"question": "Bread?", "response": "Yes."}, {"question": "Cake?"}])
    )
    assert bare == rows


def mmlu_zip(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_mmlu_reads_the_test_files_of_its_archive_and_keeps_blanks(tmp_path: Path) -> None:
    path = mmlu_zip(
        tmp_path / "mmlu.zip",
        {
            "data/test/tea_test.csv": '" Hot, or cold?",a,b,c,d,B\n',
            "data/test/bread_test.csv": "Rye?,1,2,3,4,A\nOat?,{1},2,3,4,D\n",
            "data/dev/bread_dev.csv": "Not this,1,2,3,4,A\n",
        },
    )
    requests = load_requests(path)
    assert [request.id for request in requests] == ["mmlu-bread-0", "mmlu-bread-1", "mmlu-tea-0"]
    assert [request.answer for request in requests] == ["A", "D", "B"]
    assert "Question: Oat?\n-options\n-(A) {1}\n" in requests[1].text
    assert "Question:  Hot, or cold?\n" in requests[2].text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"data/dev/bread_dev.csv": "x"}, "expected files named test/\\*_test.csv in the archive, found none"),
        ({"data/test/bread_test.csv": "a,b,c\n"}, r"mmlu\.zip:data/test/bread_test\.csv:1: expected the columns"),
        ({"data/test/bread_test.csv": b"\xff"}, r"bread_test\.csv:1: expected UTF-8 text"),
        ({"data/test/bread_test.csv": ""}, "expected rows, the file holds none"),
    ],
)
def test_a_damaged_mmlu_archive_is_an_error(tmp_path: Path, files: dict[str, str | bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_requests(mmlu_zip(tmp_path / "mmlu.zip", files))


def test_a_missing_archive_or_another_file_than_a_zip_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read it"):
        load_requests(tmp_path / "mmlu.zip")
    (tmp_path / "mmlu.zip").write_text("<html>")
    with pytest.raises(DataError, match="expected a zip archive, got another file"):
        load_requests(tmp_path / "mmlu.zip")


@pytest.mark.parametrize(
    ("rows", "format", "message"),
    [
        (
            [ROWS["requests"][0], {"id": "r1", "text": "Cake?"}],
            "auto",
            r"a\.jsonl:2: .*'r1' again \(first in .*a\.jsonl:1\)",
        ),
        (["Bread?", "Cake?", "Bread?"], "auto", r"a\.jsonl:3: expected unique ids.*again \(first in .*a\.jsonl:1\)"),
        ([{"id": "r1", "text": ""}], "auto", r"a\.jsonl:1: not a request: text"),
        ([{"id": "", "text": "Bread?"}], "auto", r"a\.jsonl:1: not a request: id"),
        ([{"id": "r1", "text": "Bread?", "txet": ""}], "auto", r"a\.jsonl:1: not a request: txet"),
        ([""], "auto", r"a\.jsonl:1: not a request: text"),
        (["Bread?", {"questoin": "Cake?"}], "auto", r"a\.jsonl:2: expected a field 'question', got questoin"),
        ([{"aim": "Bread?"}], "auto", r"a\.jsonl:1: no known format has the fields aim; expected one of: requests"),
        ([XSTEST | {"label": "?"}], "xstest_safe", r"a\.jsonl:1: label: expected safe or unsafe, got '\?'"),
        ([XSTEST], "xstest_unsafe", r"a\.jsonl: expected requests of format xstest_unsafe, found none"),
        ([{"prompt": "x", "label": "safe"}], "xstest_safe", r"a\.jsonl:1: expected a field 'id'"),
        ([{"question": "x"}], "mmlu", r"a\.jsonl:1: expected a field 'a'"),
        ([{"question": "x"}], "do_not_answer", r"a\.jsonl:1: expected a field 'id'"),
        ([{"question": "x"}], "gsm8k", r"expected a format of auto, requests, .*, got 'gsm8k'"),
        ([3], "auto", r"a\.jsonl:1: expected an object"),
    ],
)
def test_an_invalid_row_is_reported_with_file_and_line(
    tmp_path: Path, rows: list[Any], format: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_requests(write(tmp_path / "a.jsonl", rows), format=format)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("harmbench", "SemanticCategory"),
        ("jailbreakbench", "Category"),
        ("do_not_answer", "risk_area"),
        ("xstest_all", "type"),
    ],
)
def test_an_empty_category_is_none(tmp_path: Path, name: str, field: str) -> None:
    [request] = load_requests(write(tmp_path / "a.jsonl", [{**ROWS[name][0], field: " "}]), format=name)
    assert request == ROWS[name][1].model_copy(update={"category": None})


def test_an_answer_is_optional_and_an_empty_one_is_none(tmp_path: Path) -> None:
    rows = [{"instruction": "Bake?"}, {"instruction": "Cook?", "output": " "}, {"instruction": "Eat?", "output": "Yes"}]
    assert [request.answer for request in load_requests(write(tmp_path / "a.jsonl", rows))] == [None, None, "Yes"]
    rows = [{"question": "2?"}, {"question": "3?", "answer": "three ####"}, {"question": "4?", "answer": "2 #### 4"}]
    assert [request.answer for request in load_requests(write(tmp_path / "b.jsonl", rows))] == [None, None, "4"]


def test_the_place_of_an_mmlu_row_names_the_archive_and_the_file_in_it(tmp_path: Path) -> None:
    path = mmlu_zip(tmp_path / "mmlu.zip", {"data/test/tea_test.csv": "Hot?,a,b,c,d,B\n"})
    [row] = mmlu_rows(path)
    assert row.where.startswith(f"{path}:data/test/tea_test.csv")
    broken = mmlu_zip(tmp_path / "broken.zip", {"data/test/tea_test.csv": b"Hot?,a,b,c,d,B\n\xff"})
    with pytest.raises(DataError, match=rf"{broken}:data/test/tea_test.csv:2: expected UTF-8"):
        list(mmlu_rows(broken))


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Bake?", "input": "rye", "output": "Yes.", "dataset": "food"},
        {"question": "2?", "answer": "#### 2"},
        {"prompt": "Bake?", "category": "food"},
        {"id": "r", "text": "Bake?", "category": "food", "answer": "Yes.", "harmful": "Flour."},
    ],
)
def test_only_a_column_that_no_field_is_read_from_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, row: dict[str, Any]
) -> None:
    caplog.set_level(logging.INFO, "derta")
    load_requests(write(tmp_path / "a.jsonl", [row]))
    assert caplog.messages == []
    if "id" not in row:
        load_requests(write(tmp_path / "b.jsonl", [row | {"note": "mine"}]))
        assert ["note" in message for message in caplog.messages] == [True]
