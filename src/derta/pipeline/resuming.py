"""What a model said is dear: it is kept as it comes, and only what is missing is asked for."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from derta.errors import RunError
from derta.files import Appender, drop_torn_line, read_records, write_records
from derta.judges.pairwise import Preference
from derta.judges.rubric import engine_failed
from derta.protocols import Display
from derta.records import Verdict

R = TypeVar("R", Verdict, Preference)


def ask_missing(
    path: Path,
    kind: type[R],
    *,
    ids: Sequence[str],
    judge: str,
    ask: Callable[[Container[str]], Iterator[R]],
    display: Display = Display(),
) -> list[R]:
    """What a file holds of these prompts, and what `ask` says of the others (it is given their ids), in order.

    What an engine's failure left open is asked again.

    Raises:
        RunError: the file holds another judge's words, or words on other prompts.
    """
    drop_torn_line(path)
    known, done = set(ids), dict[str, R]()
    for record in read_records(path, kind) if path.exists() else ():
        if record.prompt_id not in known or record.judge != judge:
            raise RunError(
                f"{path}: expected what {judge!r} says of these replies, got {record.judge!r} on "
                f"{record.prompt_id!r}; choose another --out, or delete it"
            )
        if not engine_failed(record.reason):
            done[record.prompt_id] = record
    missing = known - done.keys()
    with Appender(path) as file, display.progress.task(f"{judge}: verdicts", total=len(ids)) as task:
        task.update(len(done))
        for record in ask(missing) if missing else ():
            file.add(record)
            done[record.prompt_id] = record
            task.update(len(done))
    write_records(path, [done[one] for one in ids])
    return [done[one] for one in ids]
