"""What a model said is dear: it is kept as it comes, and only what is missing is asked for."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from derta.errors import RunError
from derta.files import Appender, drop_torn_line, read_records, write_records
from derta.judges.pairwise import Preference
from derta.protocols import Display
from derta.records import ReplyKey, Verdict

R = TypeVar("R", Verdict, Preference)


def ask_missing(
    path: Path,
    kind: type[R],
    *,
    keys: Sequence[ReplyKey],
    judge: str,
    ask: Callable[[Container[ReplyKey]], Iterator[R]],
    display: Display = Display(),
) -> list[R]:
    """The verdicts of a file on these replies, and those of `ask` on the others (it is given their keys), in order.

    A verdict marked with `retry`, because the engine failed, is asked for again.

    Raises:
        RunError: the file holds another judge's words, or words on other prompts.
    """
    drop_torn_line(path)
    known, done = set(keys), dict[ReplyKey, R]()
    for record in read_records(path, kind) if path.exists() else ():
        if record.key not in known or record.judge != judge:
            raise RunError(
                f"{path}: expected what {judge!r} says of these replies, got {record.judge!r} on "
                f"{record.prompt_id!r}; choose another --out, or delete it"
            )
        if not record.retry:
            done[record.key] = record
    missing = known - done.keys()
    with Appender(path) as file, display.progress.task(f"{judge}: verdicts", total=len(keys)) as task:
        task.update(len(done))
        for record in ask(missing) if missing else ():
            file.add(record)
            done[record.key] = record
            task.update(len(done))
    write_records(path, [done[one] for one in keys])
    return [done[one] for one in keys]
