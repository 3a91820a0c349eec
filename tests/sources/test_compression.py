import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from derta.errors import DataError
from derta.sources import compression, read_rows, source_name

ROWS = [{"a": "Brötchen", "b": "1"}, {"a": "tea", "b": "2"}]
TEXTS = {
    "a.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "a.json": json.dumps(ROWS),
    "a.csv": "a,b\nBrötchen,1\ntea,2\n",
    "a.tsv": "a\tb\nBrötchen\t1\ntea\t2\n",
}


def compress(path: Path, contents: bytes, parts: int = 1) -> Path:
    """Write the contents in several members, as tools that compress on several processors do."""
    size = -(-len(contents) // parts)
    for start in range(0, len(contents), size):
        part = contents[start : start + size]
        if path.suffix == ".zst":
            sink = pa.BufferOutputStream()
            with pa.CompressedOutputStream(sink, "zstd") as file:
                file.write(part)
            part = sink.getvalue().to_pybytes()
        else:
            part = gzip.compress(part)
        with path.open("ab") as file:
            file.write(part)
    return path


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_compressed_file_has_the_rows_of_the_plain_one(tmp_path, suffix, parts):
    for name, text in TEXTS.items():
        path = compress(tmp_path / f"{name}{suffix}", text.encode(), parts)
        assert [row.value for row in read_rows(path)] == ROWS
        assert source_name(path) == "a"
    lines = compress(tmp_path / f"a.txt{suffix}", b"one\n\ntwo\n", parts)
    assert [row.value for row in read_rows(lines)] == ["one", "two"]


def test_a_compressed_parquet_file_is_read(tmp_path):
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), sink)
    path = compress(tmp_path / "a.parquet.gz", sink.getvalue().to_pybytes())
    assert [row.value for row in read_rows(path)] == ROWS


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_small_file_that_expands_to_a_huge_one_is_refused(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(compression, "MAX_UNPACKED_BYTES", 2**20)
    path = compress(tmp_path / f"a.jsonl{suffix}", b'{"a": "' + b" " * 2**22 + b'"}')
    assert path.stat().st_size < 2**14
    with pytest.raises(DataError, match="expected at most 1 MiB of contents, got more; unpack it"):
        list(read_rows(path))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_or_other_file_and_a_missing_one_are_one_line(tmp_path, suffix):
    path = compress(tmp_path / f"a.jsonl{suffix}", TEXTS["a.jsonl"].encode())
    whole = path.read_bytes()
    for contents in (whole[:-3], b"no archive", whole + b"more"):
        path.write_bytes(contents)
        with pytest.raises(DataError, match=rf"a\.jsonl{suffix}: expected a file compressed as {suffix}, got another"):
            list(read_rows(path))
    with pytest.raises(DataError, match=r"cannot read it \(No such file"):
        list(read_rows(tmp_path / f"b.csv{suffix}"))
