import zipfile
from pathlib import Path

import pytest

from derta.data.requests import load_requests, mmlu_rows
from derta.errors import DataError


def mmlu_zip(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_an_archive_has_no_configurations_and_its_columns_have_names(tmp_path: Path) -> None:
    path = mmlu_zip(tmp_path / "mmlu.zip", {"data/test/a_test.csv": "Rye?,1,2,3,4,A\n"})
    for options in ({"config": "x"}, {"columns": {"question": "q"}}):
        with pytest.raises(DataError, match="expected no `config` and no `columns` for MMLU's archive; remove them"):
            load_requests(path, **options)


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


def test_the_place_of_an_mmlu_row_names_the_archive_and_the_file_in_it(tmp_path: Path) -> None:
    path = mmlu_zip(tmp_path / "mmlu.zip", {"data/test/tea_test.csv": "Hot?,a,b,c,d,B\n"})
    [row] = mmlu_rows(path)
    assert row.where.startswith(f"{path}:data/test/tea_test.csv")
    broken = mmlu_zip(tmp_path / "broken.zip", {"data/test/tea_test.csv": b"Hot?,a,b,c,d,B\n\xff"})
    with pytest.raises(DataError, match=rf"{broken}:data/test/tea_test.csv:2: expected UTF-8"):
        list(mmlu_rows(broken))
