"""Tables of an audit for the terminal: rates, findings and policies; they hold names of rows and no texts."""

from __future__ import annotations

from collections import Counter

from derta.data.audit import MEASURES, AuditRate, PolicyOutcome, TriplesAudit
from derta.data.preparation import format_counts
from derta.results import TextTable

MOST_GROUPS = 30
FIRST_ROWS = 5
_MISSING = "–"


def audit_tables(audit: TriplesAudit) -> list[TextTable | str]:
    """Return tables of the rates, the findings and the policies of an audit, and lines with classes and lengths."""
    lines: list[TextTable | str] = [_rates_table(audit)]
    if (hidden := len(audit.rates) // len(MEASURES) - MOST_GROUPS) > 0:
        lines.append(f"{hidden} smaller groups are not shown; --json has all")
    lines += [f"{side} responses by class: {format_counts(Counter(counts))}" for side, counts in audit.classes.items()]
    lines += [
        f"{one.field}: {one.shortest} to {one.longest} characters, median {one.median}, 95 % up to {one.percentile_95}"
        for one in audit.lengths
    ]
    findings = [(name, str(len(rows)), ", ".join(rows[:FIRST_ROWS])) for name, rows in audit.findings.items()]
    header = ("policy", "remain", "no refusal", "dropped", "changed")
    return [
        *lines,
        TextTable("rows with a fault (--json: all)", ("fault", "rows", "first"), findings),
        TextTable("triples with each policy", header, [_policy_row(row) for row in audit.policies]),
    ]


def _rates_table(audit: TriplesAudit) -> TextTable:
    title = f"{audit.triples} triples, harm by {audit.judge}"
    header = ("", "measure", "count", "of", "%", "95 %", "unscored")
    rows = [_rate_row(row) for row in audit.rates[: MOST_GROUPS * len(MEASURES)]]
    return TextTable(title, header, rows)


def _rate_row(row: AuditRate) -> tuple[str, ...]:
    name = "" if row.measure != next(iter(MEASURES)) else "all" if row.by == "all" else f"{row.group:.40}"
    interval = f"{_percent(row.low)}–{_percent(row.high)}"
    if row.bounds is not None:
        interval += f" [{_percent(row.bounds[0])}–{_percent(row.bounds[1])}]"
    return (
        name,
        row.measure.replace("_", " "),
        str(row.count),
        str(row.scored),
        _percent(row.value),
        interval,
        str(row.unscored),
    )


def _percent(fraction: float | None) -> str:
    return _MISSING if fraction is None else f"{100 * fraction:.1f}"


def _policy_row(row: PolicyOutcome) -> tuple[str, ...]:
    name = f"{row.policy} (recipe)" if row.chosen else row.policy
    dropped, changed = (format_counts(Counter(counts)) for counts in (row.dropped, row.changed))
    return name, str(row.remaining), str(row.remaining_without_refusal), dropped, changed
