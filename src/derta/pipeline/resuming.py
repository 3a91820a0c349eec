"""Files that a stopped stage resumes from: what they hold is kept, and only what is missing is made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from derta.errors import DataError, RunError
from derta.files import Appender, drop_torn_line, read_records, write_records
from derta.judges.pairwise import Preference
from derta.protocols import Display
from derta.records import Prompt, Reply, ReplyKey, Verdict

R = TypeVar("R", Reply, Verdict)
J = TypeVar("J", Verdict, Preference)


def check_unique(prompts: Iterable[Prompt]) -> None:
    """Refuse two prompts of one id: replies are told apart by it.

    Raises:
        DataError: names the id.
    """
    ids: set[str] = set()
    for prompt in prompts:
        if prompt.id in ids:
            raise DataError(
                f"prompts: expected ids that differ, got {prompt.id!r} twice; give each evaluation a `name`"
            )
        ids.add(prompt.id)


def store_prompts(path: Path, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Write the prompts once; a resumed run takes those it began with."""
    if not path.exists():
        write_records(path, prompts)
    return list(read_records(path, Prompt))


def read_keyed(path: Path, kind: type[R], *, prompts: Iterable[Prompt]) -> dict[ReplyKey, R]:
    """Read a file's replies or verdicts by prompt id and sample; a torn last line of a killed run is cut off.

    Raises:
        DataError: a record for no prompt, or two for one.
    """
    valid_ids = {prompt.id for prompt in prompts}
    drop_torn_line(path)
    records: dict[ReplyKey, R] = {}
    for record in read_records(path, kind) if path.exists() else ():
        if record.prompt_id not in valid_ids or record.key in records:
            problem = "twice" if record.key in records else "which no prompt has"
            raise DataError(f"{path}: got prompt id {record.prompt_id!r} {problem}; the file belongs to other prompts")
        records[record.key] = record
    return records


def judge_missing(
    path: Path,
    kind: type[J],
    *,
    keys: Sequence[ReplyKey],
    judge: str,
    judge_replies: Callable[[Collection[ReplyKey]], Iterator[J]],
    description: str | None = None,
    display: Display = Display(),
) -> list[J]:
    """Judge the replies that have no verdict in the file yet; each verdict is written as it comes.

    What an engine's failure left open is judged again.

    Args:
        path: Where verdicts (or preferences) are kept.
        kind: What they are.
        keys: The replies that need one, in order.
        judge: Whose verdicts they are.
        judge_replies: Judges the replies of the keys it is given.
        description: Named beside the progress bar.
        display: Where progress is shown.

    Raises:
        RunError: the file holds another judge's verdicts, or verdicts on other prompts.
    """
    drop_torn_line(path)
    valid_keys, done, in_order = set(keys), dict[ReplyKey, J](), list[ReplyKey]()
    for record in read_records(path, kind) if path.exists() else ():
        if record.key not in valid_keys or record.judge != judge:
            raise RunError(
                f"{path}: expected what {judge!r} says of these replies, got {record.judge!r} on "
                f"{record.prompt_id!r}; choose another --out, or delete it"
            )
        in_order.append(record.key)
        if not record.retry:
            done[record.key] = record
    missing = valid_keys - done.keys()
    if not missing and in_order == list(keys) and path.exists():
        return list(done.values())
    with (
        Appender(path) as file,
        display.progress.task(description or f"{judge}: verdicts", total=len(keys)) as task,
    ):
        task.update(len(done))
        for record in judge_replies(missing) if missing else ():
            file.add(record)
            done[record.key] = record
            task.update(len(done))
    records = [done[key] for key in keys]
    if failed := sum(record.retry for record in records):
        display.logger.info(
            "%s: %d of %d replies are not judged, because the judge's engine failed (%s); run the same command again",
            path,
            failed,
            len(records),
            next(record.reason for record in records if record.retry),
        )
    write_records(path, records)
    return records
