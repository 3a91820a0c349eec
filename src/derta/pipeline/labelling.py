"""`derta label`: a random sample of replies for people to label, and rates that are estimated with their labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from derta.errors import DataError, RunError, did_you_mean
from derta.files import read_bytes, write_text
from derta.formats.label_files import LabelRow, format_label_rows, read_label_rows, reply_hash
from derta.formats.labels import WORDS
from derta.formats.replies import read_cases
from derta.formats.shards import is_sharded
from derta.locks import check_output, lock
from derta.protocols import Case, Display
from derta.records import Measure


class LabelSample(NamedTuple):
    """Result of `write_label_file`: rows in the file, rows that were added to it, and rows with a label."""

    out: Path
    rows: int
    added: int
    labelled: int


def parse_measure(name: str) -> Measure:
    """Return the measure of a name.

    Raises:
        DataError: there is none of this name.
    """
    for measure in WORDS:
        if measure == name:
            return measure
    raise DataError(f"expected the measure {', '.join(WORDS)}, got {name!r}; {did_you_mean(name, WORDS)}")


def find_replies(path: Path) -> Path:
    """Return the file of replies of a run's model folder, or the path itself if it is a file.

    Raises:
        DataError: the folder has no replies, or those of several models.
    """
    if is_sharded(path) or not path.is_dir():
        return path
    found = [path / "replies.jsonl"] if (path / "replies.jsonl").exists() else sorted(path.glob("*/replies.jsonl"))
    if len(found) != 1:
        names = ", ".join(str(one) for one in found[:4]) or "none"
        raise DataError(f"{path}: expected one replies.jsonl in the folder, got {names}; name the file to label")
    return found[0]


def write_label_file(
    path: Path,
    *,
    out: Path,
    sample: int,
    seed: int = 0,
    measure: Measure = "harmful",
    prompts_path: Path | None = None,
    display: Display = Display(),
) -> LabelSample:
    """Write a CSV file with a simple random sample of the replies of a file, without strata, for people to label.

    The sample is the start of a random order of all replies, without unanswered prompts. An existing file keeps its
    rows and labels, and is extended if the sample is larger.

    Raises:
        DataError: there are fewer replies than `sample`, or the existing file is no file of labels.
        RunError: the existing file has rows of other replies, another seed or another order.
    """
    path = find_replies(path)
    check_output(out, [path, prompts_path])
    hashes = [reply_hash(case) for case in _answered(path, prompts_path)]
    if not 0 < sample <= len(hashes):
        raise DataError(f"{path}: expected a --sample of 1 to {len(hashes)} replies, got {sample}")
    order = [*range(len(hashes))]
    Random(seed).shuffle(order)  # noqa: S311
    with lock(out):
        rows = read_label_rows(out, measure=measure) if out.stat().st_size else []
        if [row.reply_hash for row in rows] != [hashes[i] for i in order[: len(rows)]]:
            raise RunError(
                f"{out}: expected the first rows of this sample (seed {seed}), got rows of other replies or another "
                "order; choose another --out, or restore the file"
            )
        if chosen := order[len(rows) : sample]:
            wanted = set(chosen)
            by_place = {i: case for i, case in enumerate(_answered(path, prompts_path, quiet=True)) if i in wanted}
            added = format_label_rows(
                (by_place[i] for i in chosen), first=len(rows) + 1, measure=None if rows else measure
            )
            write_text(out, _with_last_newline(out) + added)
    labelled = sum(row.word != "" for row in rows)
    return LabelSample(out, len(rows) + len(chosen), len(chosen), labelled)


def _with_last_newline(path: Path) -> str:
    text = read_bytes(path).decode("utf-8-sig")
    return text if text.endswith("\n") or not text else text + "\n"


def _answered(path: Path, prompts_path: Path | None, *, quiet: bool = False) -> Iterator[Case]:
    for case in read_cases(path, prompts_path=prompts_path, quiet=quiet):
        if case.reply.unanswered is None:
            yield case


def labels_of_file(
    path: Path,
    labels_path: Path,
    *,
    measure: Measure,
    prompts_path: Path | None = None,
    display: Display = Display(),
) -> dict[str, bool]:
    """Load the labels of a file's replies, by the hash of the reply.

    Raises:
        DataError: a label belongs to another reply, or no reply has a label.
    """
    rows = read_label_rows(labels_path, measure=measure)
    unmatched = {row.reply_hash: row.where for row in rows}
    for case in read_cases(path, prompts_path=prompts_path, quiet=True):
        unmatched.pop(reply_hash(case), None)
    if unmatched:
        raise DataError(
            f"{next(iter(unmatched.values()))}: expected labels of the replies in {path}, got {len(unmatched)} of "
            "other replies, or of replies that changed; write a new file with `derta label`"
        )
    return {row.reply_hash: bool(row.truth) for row in _decided(rows, labels_path, display)}


def _decided(rows: Sequence[LabelRow], path: Path, display: Display) -> list[LabelRow]:
    """Return the rows with a decided label; log rows that were skipped or are undecided, which may bias the rate."""
    decided = [row for row in rows if row.truth is not None]
    if not decided:
        raise DataError(f"{path}: expected labels in some of the {len(rows)} rows, got none; fill in the last column")
    labelled = [row.number or place for place, row in enumerate(rows, start=1) if row.word]
    skipped = max(labelled) - len(labelled)
    undecided = sum(bool(row.word) and row.truth is None for row in rows)
    if skipped or undecided:
        display.logger.warning(
            "%s: %d rows before the last label are skipped or missing, and %d undecided; the rate is biased if they "
            "differ from the others; label the rows in order",
            path,
            skipped,
            undecided,
        )
    return decided
