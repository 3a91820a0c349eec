from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.errors import DataError, RunError
from derta.files import Appender, drop_torn_line, read_lines, read_objects, read_records, to_line, write_records
from derta.records import Reply, Triple

FULL_DISK = Path("/dev/full")
needs_full_disk = pytest.mark.skipif(not FULL_DISK.exists(), reason="no /dev/full on this system")
GOOD = '{"query": "q", "safe": "s", "harmful": "h"}\n'


def write(folder: Path, data: str | bytes) -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_what_is_written_is_read_back(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("records") / "replies.jsonl"
    replies = [Reply(prompt_id=f"p{i}", text=text, token_ids=(1, 2)) for i, text in enumerate(texts)]
    write_records(path, replies)
    assert list(read_records(path, Reply)) == replies


def test_a_line_break_in_a_text_stays_within_its_line():
    assert to_line(Reply(prompt_id="p", text="a\nb\u2028c")).count("\n") == 1


def test_absent_fields_are_left_out():
    assert to_line(Reply(prompt_id="p", text="")) == '{"prompt_id":"p","text":""}\n'


def test_blank_lines_are_skipped_but_counted(tmp_path):
    assert list(read_lines(write(tmp_path, "a\n\n  \nb"))) == [(1, "a"), (4, "b")]


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert list(read_lines(write(tmp_path, b"\xef\xbb\xbfa\n"))) == [(1, "a")]


@pytest.mark.parametrize("bad", ['{"query": ', "nonsense", "[" * 20_000, "9" * 5000, r'{"query": "half \ud83D"}'])
def test_a_malformed_line_is_reported_by_file_and_number(tmp_path, bad):
    path = write(tmp_path, GOOD + bad + "\n" + GOOD)
    with pytest.raises(DataError, match=r"rows\.jsonl:2: expected one JSON object per line"):
        list(read_objects(path))


def test_text_that_is_not_utf8_is_reported_by_its_byte(tmp_path):
    path = write(tmp_path, GOOD.encode() + "café".encode("latin-1") + b"\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:2: expected UTF-8 text, got byte 0xe9; convert the file"):
        list(read_lines(path))


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('{"query": "q", "safe": "s"}', "harmful: expected a value, got none"),
        ('{"query": "", "safe": "s", "harmful": "h"}', "query: String should have at least 1 character"),
        ('{"query": " \\n", "safe": "s", "harmful": "h"}', "query: String should match pattern"),
        ('{"query": 5, "safe": "s", "harmful": "h"}', "query: Input should be a valid string, got 5"),
        ('{"query": "q", "safe": "s", "harmful": "h", "kind": "k"}', "kind: Extra inputs are not permitted"),
        ('["q", "s", "h"]', "row: Input should be"),
    ],
)
def test_a_wrong_row_is_reported_by_file_line_and_field(tmp_path, row, fault):
    path = write(tmp_path, GOOD + row + "\n")
    with pytest.raises(DataError) as caught:
        list(read_records(path, Triple))
    assert str(caught.value).startswith(f"{path}:2: not a triple: {fault}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(
        DataError, match=r"nowhere\.jsonl: cannot read it \(No such file or directory\); check the path"
    ):
        list(read_lines(tmp_path / "nowhere.jsonl"))


def test_the_rows_before_a_fault_are_read_first(tmp_path):
    rows = read_records(write(tmp_path, GOOD + "nonsense"), Triple)
    assert next(rows).query == "q"


@given(whole=st.binary(max_size=300).map(lambda data: data + b"\n" if data else b""), torn=st.binary(max_size=300))
def test_only_a_last_line_without_its_newline_is_cut(tmp_path_factory, whole, torn):
    torn = torn.replace(b"\n", b"")
    path = write(tmp_path_factory.mktemp("torn"), whole + torn)
    drop_torn_line(path)
    assert path.read_bytes() == whole


def test_a_torn_line_longer_than_a_block_is_cut(tmp_path):
    path = write(tmp_path, b"first\n" + b"x" * 200_000)
    drop_torn_line(path)
    assert path.read_bytes() == b"first\n"


def test_an_appender_resumes_after_a_torn_line(tmp_path):
    first, second = Reply(prompt_id="1", text="a"), Reply(prompt_id="2", text="b")
    path = write(tmp_path, to_line(first) + to_line(second)[:9])
    with Appender(path) as out:
        out.add(second)
    assert list(read_records(path, Reply)) == [first, second]


def test_an_added_record_is_in_the_file_at_once(tmp_path):
    path = tmp_path / "new" / "replies.jsonl"
    with Appender(path) as out:
        out.add(Reply(prompt_id="1", text="a"))
        assert len(list(read_records(path, Reply))) == 1


def test_an_appender_where_no_folder_can_be_is_refused(tmp_path):
    with pytest.raises(RunError, match="cannot open it"):
        Appender(write(tmp_path, "a file\n") / "replies.jsonl")


@needs_full_disk
def test_a_full_disk_while_appending_is_reported():
    with Appender(FULL_DISK) as out, pytest.raises(RunError, match=r"No space left on device.*free space"):
        out.add(Reply(prompt_id="1", text="a"))


@needs_full_disk
def test_a_full_disk_leaves_the_old_file_as_it_was(tmp_path, monkeypatch):
    path, open_file = write(tmp_path, "old\n"), Path.open

    def open_on_full_disk(file, mode="r", **options):
        return open_file(FULL_DISK, "w", **options) if file.suffix == ".partial" else open_file(file, mode, **options)

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    with pytest.raises(RunError, match=r"No space left on device"):
        write_records(path, [Reply(prompt_id="1", text="a")])
    assert path.read_text() == "old\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_failing_source_of_records_leaves_the_old_file_as_it_was(tmp_path):
    path = write(tmp_path, "old\n")
    with pytest.raises(DataError):
        write_records(path, read_records(tmp_path / "nowhere.jsonl", Reply))
    assert path.read_text() == "old\n"
