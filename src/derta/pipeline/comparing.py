"""Paired comparisons by cell: of two files of replies, or of a run's methods with its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from derta.errors import DataError
from derta.formats.pairing import keyed_case, pair_cases
from derta.formats.replies import read_cases
from derta.judges import judge_cases
from derta.metrics.comparisons import compare_cells
from derta.metrics.power import power_notes
from derta.pipeline.resuming import log_failures
from derta.protocols import Case, Display, Judge
from derta.records import Prompt, ReplyKey, Verdict
from derta.results import Comparison


def compare_files(
    first: Path, second: Path, *, judge: Judge, prompts_path: Path | None = None, display: Display = Display()
) -> list[Comparison]:
    """Compare two files' replies to the same prompts, and return a comparison for each cell.

    The rows of other projects' files are paired by their request and prompt, see `derta.formats.pairing`.

    Raises:
        DataError: the files have no prompt in common, or a file has neither requests nor ids.
    """
    files = [(path, list(read_cases(path, prompts_path=prompts_path))) for path in (first, second)]
    keyed, unpaired = pair_cases(files)
    cases = [{key: keyed_case(key, case) for key, case in one.items()} for one in keyed]
    for path, one in files:
        _warn_of_models(path, one, display)
    for path, count in unpaired.items():
        display.logger.warning("%s: %d rows have no request or id and are left out", path, count)
    judged = [_judge_cases(one, judge) for one in cases]
    for path, one in zip((first, second), judged, strict=True):
        log_failures(path, [verdict for _, verdict in one], display)
    comparisons = compare_cells(
        {0: judged[0]},
        {0: judged[1]},
        first_name=side_name(first),
        second_name=side_name(second),
        judge=judge.name,
        measure=judge.measures,
    )
    prompt_ids = [{prompt_id for prompt_id, _ in one} for one in cases]
    if not comparisons:
        shared = len(prompt_ids[0] & prompt_ids[1])
        got = f"{shared} in common without a verdict of {judge.name} on both" if shared else "none in common"
        raise DataError(f"{first} and {second}: expected replies to the same prompts, got {got}")
    if alone := len(prompt_ids[0] ^ prompt_ids[1]):
        display.logger.warning("%d prompts are in only one of the files and are left out", alone)
    for note in power_notes(comparisons):
        display.logger.info(note)
    return comparisons


def _warn_of_models(path: Path, cases: Sequence[Case], display: Display) -> None:
    models = dict.fromkeys((case.reply.producer or {}).get("model") for case in cases if case.prompt.foreign)
    if len(models) > 1:
        names = ", ".join(str(name) for name in models)
        display.logger.warning("%s: has replies of %d models (%.200s), which are pooled", path, len(models), names)


def side_name(path: Path) -> str:
    """Return the name of a file in a comparison: the folder of a run's replies, or the file's stem."""
    return path.parent.name if path.name == "replies.jsonl" else path.stem


def _judge_cases(cases: Mapping[ReplyKey, Case], judge: Judge) -> list[tuple[Prompt, Verdict]]:
    verdicts = judge_cases(judge, cases.values())
    return [(case.prompt, verdict) for case, verdict in zip(cases.values(), verdicts, strict=True)]
