"""Members of zip archives, with limits on their size and names."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from derta.errors import DataError
from derta.files import read_bytes

MAX_ARCHIVE_BYTES = 2**29
"""Maximum size of the unpacked members of a zip archive, which are held in memory."""


def read_zip(path: Path, *, pattern: str) -> list[tuple[str, bytes]]:
    """Load the members of a zip archive whose names match `pattern`, as (name, bytes), sorted by name.

    Raises:
        DataError: the file is missing or not a zip archive, is encrypted or damaged, no member name matches, a name is
            not a relative path, or the members are larger than `MAX_ARCHIVE_BYTES`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(read_bytes(path))) as archive:
            infos = sorted(
                (info for info in archive.infolist() if PurePosixPath(info.filename).match(pattern)),
                key=lambda info: info.filename,
            )
            _check_members(path, infos)
            members = [(info.filename, archive.read(info)) for info in infos]
    except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:  # RuntimeError: encrypted
        raise DataError(f"{path}: expected a zip archive, got another file ({error}); fetch it again") from error
    if not members:
        raise DataError(f"{path}: expected files named {pattern} in the archive, found none")
    return members


def _check_members(path: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
    for info in infos:
        name = info.filename
        if not name.isprintable() or "\\" in name or ":" in name or {"..", "/"} & {*PurePosixPath(name).parts}:
            raise DataError(f"{path}: expected relative paths in the archive, got {name!r:.200}; fetch it again")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{path}: expected deflated members, got {name!r:.200} in another format; pack it again")
    if (size := sum(info.file_size for info in infos)) > MAX_ARCHIVE_BYTES:
        raise DataError(
            f"{path}: expected at most {MAX_ARCHIVE_BYTES >> 20} MiB of files in the archive, got {size >> 20}; unpack"
        )
