import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.errors import DataError
from derta.sources import Row, csv_records, read_entries, read_rows, source_name

VALUES = [{"query": "How do I bake bread?", "n": 1}, {"query": "Wie backe ich Brötchen?", "n": 2}]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    lines = "".join(json.dumps(value) + "\n" for value in VALUES)
    paths = [
        write(tmp_path / "a.jsonl", lines),
        write(tmp_path / "a.json", json.dumps(VALUES)),
        write(tmp_path / "a.csv", "query,n\n" + "".join(f"{value['query']},{value['n']}\n" for value in VALUES)),
        tmp_path / "a.parquet",
    ]
    pq.write_table(pa.Table.from_pylist(VALUES), paths[-1])
    for path in paths:
        rows = [{**row.value, "n": int(row.value["n"])} for row in read_rows(path)]
        assert rows == VALUES, path
        assert [row.value for row in read_rows(str(path))] == [row.value for row in read_rows(path)]


def test_rows_tell_where_they_stand(tmp_path: Path) -> None:
    jsonl = write(tmp_path / "a.jsonl", '{"a": 1}\n\n{"a": 2}\n')
    table = write(tmp_path / "a.csv", 'a,b\n1,"two\nlines"\n3,4\n')
    listed = write(tmp_path / "a.json", '[{"a": 1}]')
    assert [row.where for row in read_rows(jsonl)] == [f"{jsonl}:1", f"{jsonl}:3"]
    assert list(read_rows(table)) == [
        Row(f"{table}:3", {"a": "1", "b": "two\nlines"}),
        Row(f"{table}:4", {"a": "3", "b": "4"}),
    ]
    assert [row.where for row in read_rows(listed)] == [f"{listed}[0]"]


@given(
    st.lists(
        st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\x00")), min_size=2), min_size=1
    )
)
def test_csv_cells_survive_quotes_commas_and_line_breaks(records: list[list[str]]) -> None:
    text = "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in cells) + "\n" for cells in records)
    assert [cells for _, cells in csv_records(text, where="a.csv")] == records


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": 2', r"a\.jsonl:2: expected one JSON object per line"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl:2: expected UTF-8 text, got byte 0xff"),
        ("a.json", '[{"a": 1},\n{"a": 2', r"a\.json:2: expected one JSON list.*cut short"),
        ("a.json", '{"a": 1} {"a": 2}', r"a\.json:1: expected one JSON list.*put each object on a line"),
        ("a.json", '{"a": 1}\n{"a": 2', r"a\.json:2: expected one JSON object per line"),
        ("a.json", "7", r"expected a JSON list of rows, got a number"),
        ("a.jsonl", "[1,\n2", r"a\.jsonl:2: expected one JSON list"),
        ("a.json", "[" * 100_000, r"nested too deeply"),
        ("a.json", f"[{'9' * 5000}]", r"4300 digits"),
        ("a.json", r'[{"text": "half \ud83d"}]', r"surrogates not allowed"),
        ("a.json", b'[\n"\xe9"]', r"a\.json:2: expected UTF-8 text, got byte 0xe9"),
        ("a.csv", "a,b\n1\n", r"a\.csv:2: expected 2 columns as in the header, got 1"),
        ("a.csv", "a,b\n1,2,3\n", r"a\.csv:2: expected 2 columns as in the header, got 3"),
        ("a.csv", "a,b,a\n1,2,3\n", r"a\.csv:1: expected columns of different names, got a, b, a"),
        ("a.csv", 'a,b\n1,"two', r"a\.csv:2: not CSV"),
        ("a.csv", b"a,b\n1,\xfc\n", r"a\.csv:2: expected UTF-8 text, got byte 0xfc"),
        ("a.parquet", "no parquet", r"a\.parquet: not a parquet file"),
        ("a.log", "text", r"expected a file ending in \.json \.jsonl \.csv .*, got '\.log'"),
        ("a.txt", " \n", r"a\.txt: expected rows, the file holds none"),
        ("a.jsonl", "", r"a\.jsonl: expected rows, the file holds none"),
        ("a.json", "", r"a\.json: expected rows, the file holds none"),
        ("a.json", "[]", r"a\.json: expected rows, the file holds none"),
        ("a.csv", "", r"a\.csv: expected rows, the file holds none"),
        ("a.csv", "a,b\n", r"a\.csv: expected rows, the file holds none"),
    ],
)
def test_a_damaged_file_is_reported_by_its_name_and_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        list(read_rows(write(tmp_path / name, content)))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.parquet"])
def test_a_missing_file_is_reported_and_never_looked_for_on_the_hub(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"cannot read it \(No such file or directory\); check the path"):
        list(read_rows(str(tmp_path / name)))
    with pytest.raises(DataError, match="cannot read it"):
        list(read_rows(f"folder/{name}"))


def test_a_name_that_is_neither_file_nor_hub_id_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected an existing file .*, or a hub dataset `org/name`, found none"):
        list(read_rows("triples"))


def test_a_byte_order_mark_is_no_part_of_the_first_field(tmp_path: Path) -> None:
    for name, text in [("a.csv", "a\n1\n"), ("a.json", '[{"a": "1"}]'), ("a.jsonl", '{"a": "1"}\n')]:
        path = write(tmp_path / name, b"\xef\xbb\xbf" + text.encode())
        assert [row.value for row in read_rows(path)] == [{"a": "1"}]


def test_a_hub_id_is_loaded_with_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[tuple[str, str]] = []

    def load(name: str, *, split: str) -> Any:
        requested.append((name, split))
        return datasets.Dataset.from_list(VALUES)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(read_rows("org/name", split="30k_train"))[1] == Row("org/name[30k_train], row 1", VALUES[1])
    assert requested == [("org/name", "30k_train")]


@pytest.mark.parametrize(
    "fault", [FileNotFoundError("no such data set\nmore"), ConnectionError("offline"), ValueError("split")]
)
def test_a_hub_data_set_that_cannot_be_loaded_is_one_line(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def load(name: str, *, split: str) -> Any:
        raise fault

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"org/name: no file of that name.*split 'test'.*check the name") as error:
        list(read_rows("org/name", split="test"))
    assert "\n" not in str(error.value)


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("datasets_cache")
def test_a_local_folder_serves_in_place_of_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = datasets.Dataset.from_list(VALUES)
    datasets.DatasetDict({"30k_train": rows}).save_to_disk("org/saved_splits")
    rows.save_to_disk("org/saved")
    Path("org/files/data").mkdir(parents=True)
    rows.to_parquet("org/files/data/30k_train-00000-of-00001.parquet")
    for name in ("org/saved_splits", "org/saved", "org/files"):
        assert list(read_rows(name, split="30k_train"))[1] == Row(f"{name}[30k_train], row 1", VALUES[1])
        assert source_name(name) == name.removeprefix("org/")


@pytest.mark.usefixtures("datasets_cache")
def test_a_folder_without_the_split_or_without_rows_is_one_line(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": datasets.Dataset.from_list(VALUES)}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="expected a split of train, got 'tset'; set `split`"):
        list(read_rows(tmp_path / "saved", split="tset"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    write(tmp_path / "bad/a.jsonl", '{"a": 1}\n{"a"')
    for name in ("empty", "bad"):
        with pytest.raises(
            DataError, match=r"a folder of `datasets` with a split 'train'.*name one file in it"
        ) as error:
            list(read_rows(tmp_path / name))
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="with a split 'tset'"):
        list(read_rows(tmp_path / "bad", split="tset"))


def test_a_text_file_is_parted_by_a_separator_or_else_by_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\n\ntwo \n=====\n\n=====\nthree")
    assert list(read_rows(path, separator="=====")) == [Row(f"{path}:1", "one\n\ntwo"), Row(f"{path}:7", "three")]
    assert read_entries(path, separator="===") == [path.read_text()]
    assert [row.value for row in read_rows(path)] == ["one", "two", "=====", "=====", "three"]


def test_a_source_is_named_by_its_file_or_its_hub_id(tmp_path: Path) -> None:
    names = [source_name(source) for source in (tmp_path / "a.json", "folder/a.csv", "org/name-1.5")]
    assert names == ["a", "a", "org/name-1.5"]


def test_json_lines_and_json_lists_are_told_apart_by_what_they_contain(tmp_path: Path) -> None:
    lines, pretty = "".join(json.dumps(value) + "\n" for value in VALUES), json.dumps(VALUES, indent=1)
    for name, text in (("a.json", lines), ("b.jsonl", pretty), ("c.jsonl", json.dumps(VALUES)), ("d.json", pretty)):
        for mark in (b"", b"\xef\xbb\xbf", b"\n \n"):
            assert [row.value for row in read_rows(write(tmp_path / name, mark + text.encode()))] == VALUES
    one = write(tmp_path / "one.json", json.dumps(VALUES[0]))
    assert list(read_rows(one)) == [Row(f"{one}", VALUES[0])]
    lists = write(tmp_path / "lists.jsonl", "[1]\n[2]\n")
    assert list(read_rows(lists)) == [Row(f"{lists}:1", [1]), Row(f"{lists}:2", [2])]


def test_a_cell_may_be_longer_than_the_default_of_the_csv_module(tmp_path: Path) -> None:
    long = "a" * 200_000
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        path = write(tmp_path / name, f'x{separator}y\n1{separator}"{long}"\n')
        assert [row.value for row in read_rows(path)] == [{"x": "1", "y": long}]


def test_a_column_without_a_name_is_numbered(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ",query,\n0,tea?,\n")
    assert [row.value for row in read_rows(path)] == [{"unnamed 1": "0", "query": "tea?", "unnamed 3": ""}]


def test_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.csv", "a\n1\n")
    for source in ("~/a.csv", Path("~/a.csv")):
        assert [row.value for row in read_rows(source)] == [{"a": "1"}]


def test_a_configuration_reaches_the_hub_and_a_folder_and_is_refused_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[object] = []

    def load(*names: str, split: str) -> Any:
        requested.append((*names, split))
        return datasets.Dataset.from_list(VALUES)

    monkeypatch.setattr(datasets, "load_dataset", load)
    (tmp_path / "folder").mkdir()
    assert len(list(read_rows("org/name", config="behaviors", split="harmful"))) == 2
    assert len(list(read_rows(tmp_path / "folder", config="behaviors"))) == 2
    assert requested == [("org/name", "behaviors", "harmful"), (str(tmp_path / "folder"), "behaviors", "train")]
    datasets.Dataset.from_list(VALUES).save_to_disk(tmp_path / "saved")
    for source in (write(tmp_path / "a.csv", "a\n1\n"), tmp_path / "saved"):
        with pytest.raises(DataError, match=r"expected no `config` for .*, got 'behaviors'; remove it"):
            list(read_rows(source, config="behaviors"))


def test_the_error_lists_the_configurations_that_a_hub_data_set_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *, split: str) -> Any:
        raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['easy', 'hard']")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"available configs: \['easy', 'hard'\].*`config`"):
        list(read_rows("org/name"))


def test_columns_are_renamed_and_a_name_that_is_none_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.jsonl", '{"Frage": "tea?", "prompt": "x", "n": 1}\n{"Frage": "salt?", "System": "s"}\n')
    with caplog.at_level("INFO", logger="derta"):
        rows = list(read_rows(path, columns={"prompt": "Frage", "system": "System"}))
    assert [row.value for row in rows] == [{"n": 1, "prompt": "tea?"}, {"prompt": "salt?", "system": "s"}]
    assert caplog.messages == [f"{path}: columns that are not read, because `columns` names others: prompt"]
    swapped = read_rows(path, columns={"prompt": "Frage", "Frage": "prompt"})
    assert next(swapped).value == {"n": 1, "prompt": "tea?", "Frage": "x"}
    with pytest.raises(
        DataError, match=r"columns: expected a column of the file for 'query', got 'Frag'; did you mean 'Frage'"
    ):
        list(read_rows(path, columns={"query": "Frag"}))
