"""Results of `derta triples` as tables and lines for the terminal; they have counts and no texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from derta.pipeline.triples.rows import StagePlan, StageSummary, TriplesSummary
from derta.results import TextTable


def plan_table(plans: Sequence[StagePlan]) -> TextTable:
    """Return the calls of each stage as a table."""
    rows = [(one.stage, one.source, f"{one.calls:,}", f"{one.done:,}") for one in plans]
    left = sum(one.calls - one.done for one in plans)
    return TextTable("calls", ("stage", "model", "at most", "done"), rows, caption=f"at most {left:,} calls are left")


def summary_lines(summary: TriplesSummary, *, folder: Path) -> list[TextTable | str]:
    """Return the kept and dropped data of each stage as a table, and the numbers of rows."""
    header = ("stage", "model", "made", "kept", "distinct", "dropped", "calls", "tokens", "seconds")
    table = TextTable("stages", header, [_row(one) for one in summary.stages])
    lines = [f"{summary.triples:,} triples in {folder / 'triples.jsonl'}"]
    if any(one.stage == "answers" for one in summary.stages):
        lines.append(f"{summary.counter:,} counter rows in {folder / 'counter.jsonl'}")
    if summary.without_triple:
        lines.append(f"{summary.without_triple:,} of {summary.requests:,} requests have no triple")
    return [*([clause_table(summary)] if summary.clauses else []), table, *lines]


def clause_table(summary: TriplesSummary) -> TextTable:
    """Return the kept and dropped requests of each clause as a table."""
    rows = [
        (one.clause, str(one.requests), str(one.borderline), str(one.lookalikes), _counts(one.dropped))
        for one in summary.clauses
    ]
    return TextTable("requests by clause", ("clause", "forbidden", "borderline", "look-alikes", "dropped"), rows)


def _counts(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in dropped.items()) or "–"


def _row(stage: StageSummary) -> tuple[str, ...]:
    distinct = "–" if stage.distinct is None else f"{stage.distinct:.1%}"
    cost = (f"{stage.calls:,}", f"{stage.tokens:,}", f"{stage.seconds:.1f}") if stage.calls else ("–", "–", "–")
    return (
        stage.stage,
        stage.source or "–",
        f"{stage.made:,}",
        f"{stage.kept:,}",
        distinct,
        _counts(stage.dropped),
        *cost,
    )
