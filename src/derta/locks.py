"""Locks on output files, by `flock`: the operating system releases a lock when its process ends, also by a kill."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from errno import EACCES, EAGAIN, ENOLCK, ENOSYS, ENOTSUP
from pathlib import Path

from derta.errors import RunError

_LOG = logging.getLogger(__name__)


@contextmanager
def lock(path: Path) -> Generator[None]:
    """Hold an exclusive lock on an output file, so that no second process writes it at the same time.

    The file is created if it is missing, and removed again if the block fails and leaves it empty. Inside the block it
    may be replaced as a whole (`files.write_records`) as the last step.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp(), "replies.jsonl")
    >>> with lock(path):
    ...     with lock(path):
    ...         pass
    Traceback (most recent call last):
    derta.errors.RunError: ...replies.jsonl: another process writes this file; wait for it or choose another output

    Raises:
        RunError: another process holds the lock, or the file cannot be opened.
    """
    created = not path.exists()
    descriptor = _open_locked(path)
    finished = False
    try:
        yield
        finished = True
    finally:
        if created and not finished and _is_open_file(path, descriptor) and os.fstat(descriptor).st_size == 0:
            path.unlink()
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    """Return a descriptor of the file under this path, locked; a file that was replaced meanwhile is opened again."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise RunError(f"{path}: cannot open it ({error.strerror}); choose another output") from error
        try:
            _flock(path, descriptor)
        except RunError:
            os.close(descriptor)
            raise
        if _is_open_file(path, descriptor):
            return descriptor
        os.close(descriptor)


def _flock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (EAGAIN, EACCES):
            raise RunError(f"{path}: another process writes this file; wait for it or choose another output") from error
        if error.errno not in (ENOLCK, ENOSYS, ENOTSUP):
            raise RunError(f"{path}: cannot lock it ({error.strerror}); choose another output") from error
        _LOG.warning("%s: its file system supports no locks; do not start a second process on this output", path)


def _is_open_file(path: Path, descriptor: int) -> bool:
    """Return whether the path still names the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def check_output(out: Path | None, inputs: Iterable[Path | None]) -> None:
    """Refuse an output file that is also an input, before either is opened.

    >>> check_output(Path("replies.jsonl"), [Path("./replies.jsonl")])
    Traceback (most recent call last):
    derta.errors.RunError: replies.jsonl: is an input too, and would be overwritten; choose another output

    Raises:
        RunError: two paths name the same file, also through links.
    """
    for path in inputs:
        if out is None or path is None:
            continue
        if out.resolve() == path.resolve() or (out.exists() and path.exists() and out.samefile(path)):
            raise RunError(f"{out}: is an input too, and would be overwritten; choose another output")
