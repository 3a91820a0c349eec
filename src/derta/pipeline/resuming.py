"""Files that a stopped stage resumes from: existing records are reused, and only missing ones are computed."""

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
    """Validate that prompt ids are unique, because replies refer to them.

    Raises:
        DataError: a repeated id; the message names it.
    """
    ids: set[str] = set()
    for prompt in prompts:
        if prompt.id in ids:
            raise DataError(f"prompts: expected unique ids, got {prompt.id!r} twice; set a `name` for each evaluation")
        ids.add(prompt.id)


def store_prompts(path: Path, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Write the prompts to a file that does not exist yet, and return the file's prompts.

    A resumed run thus keeps the prompts of its first start.
    """
    if not path.exists():
        write_records(path, prompts)
    return list(read_records(path, Prompt))


def read_keyed(path: Path, kind: type[R], *, prompts: Iterable[Prompt]) -> dict[ReplyKey, R]:
    """Load a file's replies or verdicts by prompt id and sample; an incomplete last line of a killed run is removed.

    Raises:
        DataError: a record has an unknown prompt id, or repeats one.
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
    """Judge the replies without a verdict in the file, and return all verdicts; each new one is appended at once.

    Replies whose engine failed are judged again.

    Args:
        path: The file of verdicts (or preferences).
        kind: The type of its records.
        keys: The replies to judge, in order.
        judge: The name of the judge.
        judge_replies: A function that judges the replies with these keys.
        description: The label of the progress bar.
        display: Shows progress.

    Raises:
        RunError: the file holds another judge's verdicts, or verdicts on other prompts.
    """
    drop_torn_line(path)
    valid_keys, done, in_order = set(keys), dict[ReplyKey, J](), list[ReplyKey]()
    for record in read_records(path, kind) if path.exists() else ():
        if record.key not in valid_keys or record.judge != judge:
            raise RunError(
                f"{path}: expected the verdicts of {judge!r} on these replies, got {record.judge!r} on "
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
