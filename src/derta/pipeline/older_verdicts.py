"""Verdicts by an older version of a judge without a model, which today's version may judge otherwise."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from derta.files import read_records
from derta.formats.shards import is_sharded, verdict_paths
from derta.judges import JUDGES, build_judge, judge_producer, uses_model
from derta.pipeline.run_paths import CONTENTS
from derta.protocols import Display
from derta.provenance import SUPERSEDED
from derta.records import Verdict

_LOG = logging.getLogger(__name__)


def log_judged_again(replaced: Iterable[Mapping[str, int]], folders: Sequence[Path]) -> None:
    """Log, in one line, that verdicts have been replaced: their number by judge, for each model."""
    older: Counter[str] = Counter()
    for counts in replaced:
        older.update(counts)
    if older:
        _LOG.warning(
            "%s: %d verdicts are of older versions of %s or on other replies; these are judged again, and the old "
            "verdicts are in *.superseded.jsonl",
            ", ".join(map(str, folders)),
            older.total(),
            ", ".join(older),
        )


def warn_of_older_verdicts(source: Path, *, judges: Collection[str], display: Display) -> None:
    """Log, in one line, how many verdicts of a run, a model's folder or a file are of an older version of a judge.

    Args:
        source: A run's folder, the folder of one of its models, or a file of replies.
        judges: Names of the judges; if empty, all.
        display: Shows the warning with the command that judges again.
    """
    older: Counter[str] = Counter()
    for judge, paths in _verdict_files(source).items():
        if judge not in JUDGES or uses_model(judge) or (judges and judge not in judges):
            continue
        code = judge_producer(build_judge(judge)).get("code")
        verdicts = (one for path in paths for one in read_records(path, Verdict))
        older[judge] += sum(one.producer is not None and one.producer.get("code") != code for one in verdicts)
    names = [judge for judge, count in older.items() if count]
    if not names:
        return
    run = next(
        (folder for folder in (source, source.parent, source.parent.parent) if (folder / CONTENTS).exists()), None
    )
    again = f"derta judge {source} --judge {names[0]} --out {source.parent / f'verdicts.{names[0]}.jsonl'}"
    display.logger.warning(
        "%s: %d verdicts are of an older version of %s; `%s` judges again",
        source,
        older.total(),
        ", ".join(names),
        again if run is None else f"derta report {run}",
    )


def _verdict_files(source: Path) -> dict[str, list[Path]]:
    """Return the files of current verdicts below or next to a source, by judge."""
    if is_sharded(source):
        return verdict_paths(source)
    folder = source if source.is_dir() else source.parent
    paths = sorted([*folder.glob("verdicts.*.jsonl"), *(folder.glob("*/verdicts.*.jsonl") if source.is_dir() else ())])
    files: dict[str, list[Path]] = {}
    for path in paths:
        if not path.stem.endswith(SUPERSEDED):
            files.setdefault(path.stem.removeprefix("verdicts."), []).append(path)
    return files
