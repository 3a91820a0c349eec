"""Contents of plain and compressed files (`.gz`, `.zst`), with a limit on what a compressed one expands to."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from derta.errors import DataError
from derta.files import read_bytes

MAX_UNPACKED_BYTES = 2**29
"""Maximum size of the contents of a compressed file, which are held in memory."""
_CHUNK_BYTES = 2**20


def _open_zstd(path: Path) -> AbstractContextManager[Any]:
    import pyarrow as pa  # slow to import, and few files are compressed

    return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")


COMPRESSED: Mapping[str, Callable[[Path], AbstractContextManager[Any]]] = {".gz": gzip.open, ".zst": _open_zstd}


def plain_name(path: Path) -> Path:
    """Return the path without the suffix of a compression.

    >>> plain_name(Path("data/a.jsonl.gz")).name, plain_name(Path("a.csv")).name
    ('a.jsonl', 'a.csv')
    """
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


def open_contents(path: Path) -> IO[bytes]:
    """Open a file for reading; a compressed one is decompressed into memory.

    Raises:
        DataError: see `read_contents`.
    """
    if path.suffix.lower() in COMPRESSED:
        return io.BytesIO(read_contents(path))
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}); check the path") from error


def read_contents(path: Path) -> bytes:
    """Return the contents of a file, decompressed if its suffix is one of `COMPRESSED`.

    Raises:
        DataError: the file is missing, damaged or cut short, or is larger than `MAX_UNPACKED_BYTES` when unpacked.
    """
    unpack = COMPRESSED.get(path.suffix.lower())
    if unpack is None:
        return read_bytes(path)
    if not path.is_file():
        raise DataError(f"{path}: cannot read it (No such file or directory); check the path")
    contents = bytearray()
    try:
        with unpack(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                contents += chunk
                if len(contents) > MAX_UNPACKED_BYTES:
                    raise DataError(
                        f"{path}: expected at most {MAX_UNPACKED_BYTES >> 20} MiB of contents, got more; unpack it"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: expected a file compressed as {path.suffix}, got another or a cut one ({error}); fetch it again"
        ) from error
    return bytes(contents)
