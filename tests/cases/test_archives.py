"""Archives that strangers wrote, and archives with ids that strangers wrote."""

import struct
import zipfile
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from derta.data.requests import load_requests
from derta.errors import DataError
from derta.formats.file_names import sample_id
from derta.sources import archives

ROW = "Rye?,1,2,3,4,A\n"


def archive(path, names, **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        for name in names:
            file.writestr(name, ROW)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../test/a_test.csv",
        "data/../../test/a_test.csv",
        "/test/a_test.csv",
        "..\\x/test/a_test.csv",
        "C:/test/a_test.csv",
        "test/a\x1b[2J_test.csv",
        "test/a\u202e_test.csv",
    ],
)
def test_a_member_with_a_path_trick_is_refused_in_one_line(tmp_path, name):
    path = archive(tmp_path / "mmlu.zip", ["data/test/b_test.csv", name])
    with pytest.raises(DataError, match="expected relative paths in the archive, got") as error:
        load_requests(path)
    assert str(error.value).isprintable()


def test_a_member_that_is_not_used_may_have_any_name(tmp_path):
    path = archive(tmp_path / "mmlu.zip", ["data/test/b_test.csv", "../README"])
    assert [request.id for request in load_requests(path)] == ["mmlu-b-0"]


def test_an_archive_that_expands_to_a_huge_text_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "mmlu.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("test/a_test.csv", ROW * 100_000)
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 2**20)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("read"))
    assert path.stat().st_size < 2**14
    with pytest.raises(DataError, match="expected at most 1 MiB of files in the archive, got 1; unpack"):
        load_requests(path)


def test_a_member_of_another_size_than_it_says_is_refused(tmp_path):
    path = tmp_path / "mmlu.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("test/a_test.csv", ROW * 1000)
    raw, size = path.read_bytes(), struct.pack("<I", len(ROW) * 1000)
    path.write_bytes(raw.replace(size, struct.pack("<I", len(ROW))))
    with pytest.raises(DataError, match="expected a zip archive, got another file"):
        load_requests(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression_and_encryption_are_one_line(tmp_path, compression):
    path = archive(tmp_path / "mmlu.zip", ["test/a_test.csv"], compression=compression)
    with pytest.raises(DataError, match="expected deflated members"):
        load_requests(path)
    path = archive(tmp_path / "locked.zip", ["test/a_test.csv"])
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # the flag of an encrypted member
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"expected a zip archive, got another file .*encrypted"):
        load_requests(path)


PARTS = ["..", ".", "/", "\\", "a", "C:", "~", "\x00", "\n", " "]
IDS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("".join)


@given(IDS)
@example("../x")
@example("a/../../x")
@example("..\\x")
@example("C:/x")
@example("x\n")
def test_no_id_is_a_path_out_of_the_folder_of_an_export(prompt_id):
    member = f"samples/{sample_id(prompt_id)}_epoch_1.json"
    for path in (PurePosixPath(member), PureWindowsPath(member)):
        assert not path.is_absolute()
        assert not path.drive
        assert ".." not in path.parts
        assert path.parts[0] == "samples"
    assert member.isprintable()


@given(st.lists(IDS, unique=True, max_size=20))
def test_different_ids_stay_different(ids):
    assert len({sample_id(one) for one in ids}) == len(ids)


@pytest.mark.parametrize(
    "name", ["direct:7", "prefill@50%:7", "run/direct:7", "code_attack@stack:mmlu-a-1", "a..b", "…"]
)
def test_a_plain_id_stays_as_it_is(name):
    assert sample_id(name) == name
