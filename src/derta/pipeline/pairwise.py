"""`derta pairwise`: a judge's preference between two models' replies, in both orders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from derta.errors import DataError
from derta.formats.pairing import pair_cases, request_key
from derta.formats.replies import read_cases
from derta.judges.pairwise import Pair, Preference, compare_replies, rubric_hash
from derta.locks import check_output
from derta.metrics.comparisons import (
    JUDGE,
    PairwiseOutcome,
    position_bias_cell,
    preference_comparison,
    win_rate_cell,
)
from derta.metrics.power import power_notes
from derta.pipeline.comparing import side_name
from derta.pipeline.judge import engine_loader
from derta.pipeline.resuming import Expected, judge_missing, supersede
from derta.protocols import Case, Display
from derta.provenance import case_hash
from derta.records import ReplyKey, short_hash
from derta.results import Cell, Comparison

if TYPE_CHECKING:
    from derta.config import EngineConfig


class PairwiseResult(NamedTuple):
    """Win rate of the first file, rate of verdicts that depend on the order, and the test of wins against losses."""

    win_rate: Cell
    order_decided: Cell
    comparison: Comparison | None


def compare_pairwise(
    first: Path,
    second: Path,
    *,
    model: EngineConfig,
    prompts_path: Path | None = None,
    out: Path | None = None,
    display: Display = Display(),
) -> PairwiseResult:
    """Compare two files' replies to the same requests; each preference is appended to `out` at once.

    Raises:
        DataError: the files have no request in common.
        RunError: `out` holds preferences on other pairs.
    """
    check_output(out, [first, second, prompts_path])
    pairs = match_pairs(first, second, prompts_path=prompts_path, display=display)
    preferences = _preferences(pairs, model, out, display)
    better: list[PairwiseOutcome | None] = [one.better for one in preferences]
    orders = [one.orders for one in preferences]
    first_name, second_name = side_name(first), side_name(second)
    comparison = preference_comparison(better, first=first_name, second=second_name)
    for note in power_notes([comparison] if comparison else []):
        display.logger.info(note)
    return PairwiseResult(
        win_rate_cell(
            better, first=first_name, second=second_name, unanswered=sum(one.unanswered for one in preferences)
        ),
        position_bias_cell(orders, first=first_name, second=second_name),
        comparison,
    )


def match_pairs(
    first: Path, second: Path, *, prompts_path: Path | None = None, display: Display = Display()
) -> list[Pair]:
    """Return the pairs of replies to the same prompts: matched by prompt id if both files are derta's, else by request.

    Of a repeated request the first reply is used. The others, and requests in only one file, are counted in a log
    message.
    """
    files = [(path, list(read_cases(path, prompts_path=prompts_path))) for path in (first, second)]
    keyed, unpaired = pair_cases(files, key=request_key)
    ours, theirs = (_first_samples(one) for one in keyed)
    pairs = [Pair(*case, theirs[name].reply) for name, case in reversed(ours.items()) if name in theirs]
    if not pairs:
        raise DataError(f"{first} and {second}: expected replies to the same requests, got none in common")
    if repeated := sum(map(len, keyed)) - len(ours) - len(theirs):
        display.logger.warning("%d replies to repeated requests are ignored", repeated)
    if unmatched := len(ours) + len(theirs) - 2 * len(pairs) + unpaired.total():
        display.logger.warning("%d replies to requests in only one of the files are ignored", unmatched)
    return pairs


def _first_samples(cases: dict[ReplyKey, Case]) -> dict[str, Case]:
    return {name: case for (name, _), case in reversed(cases.items())}


def _pair_hash(pair: Pair) -> str:
    return short_hash(case_hash(pair.prompt, pair.ours), case_hash(pair.prompt, pair.theirs))


def _preferences(pairs: list[Pair], model: EngineConfig, out: Path | None, display: Display) -> list[Preference]:
    """The preferences on all pairs; with a file, only those that it lacks are asked for."""
    load = engine_loader(model)
    if out is not None:
        producer = {"judge": JUDGE, "rubric": rubric_hash(), **load.producer()}
        expected = {pair.ours.key: Expected(_pair_hash(pair), producer) for pair in pairs}
        if old := supersede(out, Preference, expected, only_changed_inputs=True):
            display.logger.info("%s: %d preferences on other replies are superseded", out, old)
        return judge_missing(
            out,
            Preference,
            expected=expected,
            judge=JUDGE,
            judge_replies=lambda missing: compare_replies(load(), (pair for pair in pairs if pair.ours.key in missing)),
            display=display,
        )
    with display.progress.task("pairwise: verdicts", total=len(pairs)) as task:
        preferences: list[Preference] = []
        for preference in compare_replies(load(), pairs):
            preferences.append(preference)
            task.update(len(preferences))
        return preferences
