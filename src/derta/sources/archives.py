"""Members of zip archives, with limits on their size and names."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from derta.errors import DataError
from derta.files import read_bytes

ZSTD = 93
"""Number of Zstandard among the compression methods of zip archives."""
MAX_ARCHIVE_BYTES = 2**29
"""Maximum size of the unpacked members of a zip archive, which are held in memory."""


def read_zip(path: Path, *, pattern: str, allow_colons: bool = False) -> list[tuple[str, bytes]]:
    """Load the members of a zip archive whose names match `pattern`, as (name, bytes), sorted by name.

    Members may be stored, deflated, or compressed with Zstandard. With `allow_colons`, their names may have colons,
    which are harmless where no file is extracted.

    Raises:
        DataError: the file is missing or not a zip archive, is encrypted or damaged, no member name matches, a name is
            not a relative path, or the members are larger than `MAX_ARCHIVE_BYTES`.
    """
    contents = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(contents)) as archive:
            infos = sorted(
                (info for info in archive.infolist() if PurePosixPath(info.filename).match(pattern)),
                key=lambda info: info.filename,
            )
            _check_members(path, infos, allow_colons=allow_colons)
            members = [
                (info.filename, _read_zstd(contents, info) if info.compress_type == ZSTD else archive.read(info))
                for info in infos
            ]
    except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:  # RuntimeError: encrypted
        raise DataError(f"{path}: expected a zip archive, got another file ({error}); fetch it again") from error
    if not members:
        raise DataError(f"{path}: expected files named {pattern} in the archive, found none")
    return members


def _read_zstd(contents: bytes, info: zipfile.ZipInfo) -> bytes:
    """Return the contents of a member compressed with Zstandard, which `zipfile` reads from Python 3.14 on.

    Raises:
        BadZipFile: the member is damaged, or its size is not that of the archive's directory.

    Source: APPNOTE.TXT 6.3.10 of PKWARE, 4.3.7: a local header has 30 bytes, a name and extra fields.
    """
    import pyarrow as pa  # slow to import, and few archives need it

    header = contents[info.header_offset : info.header_offset + 30]
    if len(header) < 30 or info.flag_bits & 1:
        raise zipfile.BadZipFile(f"{info.filename}: a cut header, or encrypted")
    start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    packed = pa.BufferReader(contents[start : start + info.compress_size])
    try:
        with pa.CompressedInputStream(packed, "zstd") as stream:
            unpacked = stream.read(info.file_size + 1)
    except OSError as error:
        raise zipfile.BadZipFile(f"{info.filename}: {error}") from error
    if len(unpacked) != info.file_size or zlib.crc32(unpacked) != info.CRC:
        raise zipfile.BadZipFile(f"{info.filename}: bad size or checksum")
    return unpacked


def _check_members(path: Path, infos: Sequence[zipfile.ZipInfo], *, allow_colons: bool) -> None:
    for info in infos:
        name = info.filename
        if (
            not name.isprintable()
            or "\\" in name
            or (":" in name and not allow_colons)
            or {"..", "/"} & {*PurePosixPath(name).parts}
        ):
            raise DataError(f"{path}: expected relative paths in the archive, got {name!r:.200}; fetch it again")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, ZSTD):
            raise DataError(f"{path}: expected deflated members, got {name!r:.200} in another format; pack it again")
    if (size := sum(info.file_size for info in infos)) > MAX_ARCHIVE_BYTES:
        raise DataError(
            f"{path}: expected at most {MAX_ARCHIVE_BYTES >> 20} MiB of files in the archive, got {size >> 20}; unpack"
        )
