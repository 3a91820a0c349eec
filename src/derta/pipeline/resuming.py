"""Files that a stopped stage resumes from: their results are kept, and only what is missing is made.

A result is used again only if it would be made the same today: from the same input (`input_hash`) by the same producer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from derta.errors import DataError, RunError
from derta.files import Appender, drop_torn_line, read_lines, read_records, write_records
from derta.judges.pairwise import Preference
from derta.locks import lock
from derta.protocols import Display
from derta.provenance import SUPERSEDED, Producer, changed_keys
from derta.records import Prompt, Reply, ReplyKey, Verdict
from derta.token_refusals import TokenRefusal

R = TypeVar("R", Reply, Verdict, TokenRefusal)
T = TypeVar("T", Reply, Verdict, Preference, TokenRefusal)
J = TypeVar("J", Verdict, Preference)

Result = Reply | Verdict | Preference | TokenRefusal


class Expected(NamedTuple):
    """The provenance that a result must have to be used again: the hash of its input, and its producer."""

    input_hash: str
    producer: Producer

    def fault(self, result: Result) -> str | None:
        """Return how the provenance of a result differs, None if it does not."""
        if result.producer != self.producer:
            return f"it has another producer: {'; '.join(changed_keys(result.producer, self.producer))}"
        return None if result.input_hash == self.input_hash else "its input has changed since"

    def stamp(self, result: T) -> T:
        """Return a new result with its provenance."""
        return result.model_copy(update={"input_hash": self.input_hash, "producer": dict(self.producer)})


def check_unique(prompts: Iterable[Prompt]) -> None:
    """Refuse two prompts with the same id: replies refer to prompts by id.

    Raises:
        DataError: names the id.
    """
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise DataError(f"prompts: expected unique ids, got {prompt.id!r} twice; set a `name` for each evaluation")
        seen.add(prompt.id)


def store_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write a run's prompts, unless the file holds exactly these."""
    if not path.exists() or list(read_records(path, Prompt)) != list(prompts):
        write_records(path, prompts)


def read_keyed(path: Path, kind: type[R], *, prompts: Iterable[Prompt]) -> dict[ReplyKey, R]:
    """Return a file's replies or verdicts by prompt id and sample, without an incomplete last line.

    The file is not changed: another process may be writing it.

    Raises:
        DataError: a record for no prompt, or two for one.
    """
    valid_ids = {prompt.id for prompt in prompts}
    records: dict[ReplyKey, R] = {}
    for record in read_records(path, kind, complete_lines=True) if path.exists() else ():
        if record.prompt_id not in valid_ids or record.key in records:
            problem = "twice" if record.key in records else "which no prompt has"
            raise DataError(f"{path}: got prompt id {record.prompt_id!r} {problem}; the file belongs to other prompts")
        records[record.key] = record
    return records


def read_results(path: Path, kind: type[T], expected: Mapping[ReplyKey, Expected]) -> dict[ReplyKey, T]:
    """Return the results in a file that a stage resumes from, by key.

    Raises:
        RunError: a result for no expected key, two for one key, or one of another input or producer.
    """
    drop_torn_line(path)
    records: dict[ReplyKey, T] = {}
    for record in read_records(path, kind) if path.exists() else ():
        wanted = expected.get(record.key)
        fault = _unexpected(record) if wanted is None else wanted.fault(record)
        if record.key in records and not _is_attempt(records[record.key]):
            fault = "it is there twice"
        if fault is not None:
            raise RunError(
                f"{path}: cannot resume from {record.prompt_id!r}: {fault}; choose another --out, or delete the file"
            )
        records[record.key] = record
    return records


def _unexpected(record: Result) -> str:
    return f"sample {record.sample} is not expected" if record.sample else "no prompt has this id"


def _is_attempt(record: Result) -> bool:
    """Return whether a record is a failure that a later line may replace, which a kill before the rewrite leaves."""
    if isinstance(record, Reply):
        return record.unanswered == "failed"
    return not isinstance(record, TokenRefusal) and record.retry


def supersede(
    path: Path, kind: type[T], expected: Mapping[ReplyKey, Expected], *, only_changed_inputs: bool = False
) -> int:
    """Move the results that a stage would make differently today to `*.superseded.jsonl`, and return their number.

    Results there that it would make the same today move back, so that a setting that is changed and changed back costs
    nothing. A run's folder uses this where its evaluations changed. A file outside a run uses it with
    `only_changed_inputs`: results of the same producer on the same keys, whose input changed. Nothing is lost.

    Raises:
        RunError: a result is there twice, or another process writes the file.
    """
    if not path.exists():
        return 0
    with lock(path):
        drop_torn_line(path)
        current: dict[ReplyKey, T] = {}
        superseded: list[T] = []
        for record in read_records(path, kind):
            if record.key in current and not _is_attempt(current[record.key]):
                raise RunError(f"{path}: got a result for {record.prompt_id!r} twice; delete one of the lines")
            wanted = expected.get(record.key)
            if _is_superseded(record, wanted, only_changed_inputs=only_changed_inputs):
                superseded.append(record)
            else:
                current[record.key] = record
        store = path.with_suffix(f"{SUPERSEDED}{path.suffix}")
        earlier = list(read_records(store, kind, complete_lines=True)) if store.exists() else []
        if superseded:
            with Appender(store) as file:
                for record in superseded:
                    file.add(record)
        restored = {one.key: one for one in earlier if one.key in expected and expected[one.key].fault(one) is None}
        if superseded or restored.keys() - current.keys():
            write_records(path, list((restored | current).values()))
    return len(superseded)


def _is_superseded(record: Result, wanted: Expected | None, *, only_changed_inputs: bool) -> bool:
    if wanted is None or record.producer != wanted.producer:
        return not only_changed_inputs
    return record.input_hash != wanted.input_hash


def judge_missing(
    path: Path,
    kind: type[J],
    *,
    expected: Mapping[ReplyKey, Expected],
    judge: str,
    judge_replies: Callable[[Collection[ReplyKey]], Iterator[J]],
    description: str | None = None,
    display: Display = Display(),
) -> list[J]:
    """Judge the replies that have no verdict in the file yet; each verdict is written as soon as it is known.

    Verdicts that an engine's failure prevented are requested again.

    Args:
        path: The file of the verdicts (or preferences).
        kind: Their class.
        expected: The replies that need a verdict, in order, with the provenance of each verdict.
        judge: The name of the judge.
        judge_replies: Yields a verdict for each of the keys that it receives.
        description: The label of the progress bar.
        display: Where progress is shown.

    Raises:
        RunError: the file holds verdicts of another judge or on other replies, or another process writes it.
    """
    with lock(path):
        records = read_results(path, kind, expected)
        done = {key: record for key, record in records.items() if not record.retry}
        missing = expected.keys() - done.keys()
        if not missing and list(records) == list(expected) and _count_lines(path) == len(records):
            return list(done.values())
        with (
            Appender(path) as file,
            display.progress.task(description or f"{judge}: verdicts", total=len(expected)) as task,
        ):
            task.update(len(done))
            for record in judge_replies(missing) if missing else ():
                verdict = expected[record.key].stamp(record)
                file.add(verdict)
                done[verdict.key] = verdict
                task.update(len(done))
        verdicts = [done[key] for key in expected]
        log_failures(path, verdicts, display)
        write_records(path, verdicts)
    return verdicts


def _count_lines(path: Path) -> int:
    return sum(1 for _ in read_lines(path))


def log_failures(path: Path, verdicts: Sequence[J], display: Display) -> None:
    """Log the number of replies of a file that are not judged because of engine errors, with the first error."""
    failures = [verdict.reason for verdict in verdicts if verdict.retry]
    if failures:
        display.logger.info(
            "%s: %d of %d replies are not judged, because the judge's engine failed (%s); run the same command again",
            path,
            len(failures),
            len(verdicts),
            failures[0],
        )
