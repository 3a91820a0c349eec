"""Overview table of the report: the mean of each method over attacks and datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from derta.metrics.kinds import MOST_MALFORMED
from derta.reporting.tables import Mean, RateTable

OVERVIEW_MEASURES = ("harmful", "refused", "correct")  # other measures only add detail to these


@dataclass(frozen=True, slots=True)
class OverviewColumn:
    """Column of the overview table: the mean of each method over the attacks or datasets of a rate table.

    `malformed` has the methods with many malformed refusals there, which a refusal rate does not count, and their mean.
    """

    table: RateTable
    means: dict[str, Mean | None]
    malformed: dict[str, float]


def overview_columns(tables: Sequence[RateTable]) -> list[OverviewColumn]:
    """Return a column for each table of the main measures."""
    return [
        OverviewColumn(table, dict(zip(table.methods, table.means, strict=True)), _malformed(table, tables))
        for table in tables
        if table.suite != "analysis" and table.measure in OVERVIEW_MEASURES
    ]


def _malformed(table: RateTable, tables: Sequence[RateTable]) -> dict[str, float]:
    """Return the methods with many malformed refusals beside a table of refusals."""
    key = (table.suite, "malformed", table.judge)
    beside = [one for one in tables if table.measure == "refused" and (one.suite, one.measure, one.judge) == key]
    return {
        method: mean.value
        for other in beside
        for method, mean in zip(other.methods, other.means, strict=True)
        if mean is not None and mean.value > MOST_MALFORMED
    }
