"""Render the report: one offline HTML page with one script of its own; model output is collapsed by default."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from derta.errors import DataError
from derta.files import parse_record, write_text
from derta.metrics.kinds import MOST_MALFORMED
from derta.reporting import plots
from derta.reporting.explorer import explorer
from derta.reporting.tables import SUITES, Mean, RateTable, label_of, rate_tables, unique
from derta.reporting.text import (
    format_count,
    format_percent,
    label_slug,
    sentence_case,
    transcript_filter,
    visible_value,
)
from derta.reporting.token_heat import legend, token_heat
from derta.reporting.transcripts import transcript_browser
from derta.reporting.wordings import Wording, wording
from derta.results import CellSuite, Comparison, ScoredAnswer, Summary, Transcript
from derta.stats import SIGNIFICANT, format_p_value

# With fewer discordant pairs an exact McNemar test cannot reach p < 0.05, whatever the outcomes: 2 * 0.5**5 = 0.0625.
MIN_DISCORDANT = 6
OVERVIEW_MEASURES = ("harmful", "refused", "correct")  # other measures only add detail to these


@dataclass(frozen=True, slots=True)
class OverviewColumn:
    """Column of the overview table: the mean of each method over the attacks or datasets of a rate table.

    `malformed` has the methods with many malformed refusals there, which a refusal rate does not count, and their mean.
    """

    table: RateTable
    means: dict[str, Mean | None]
    malformed: dict[str, float]


class ComparisonTable(NamedTuple):
    """Comparisons of one suite, measure and judge; rows of (comparison, conclusion, CSS class)."""

    suite: CellSuite
    wording: Wording
    judge: str
    rows: list[tuple[Comparison, str, str]]


class Headline(NamedTuple):
    """Methods with the highest and lowest mean of the first attack table, and the averaged measure."""

    measure: str
    judge: str
    num_attacks: int
    highest: str
    highest_value: float
    lowest: str
    lowest_value: float


def render_report(summary: Summary, transcripts: Sequence[Transcript], *, answers: Sequence[ScoredAnswer] = ()) -> str:
    """Render the HTML page; the output is deterministic. `answers` are harmful answers, shown token by token.

    Raises:
        DataError: two cells have the same key, or the x and y values of a curve differ in length.
    """
    methods = _methods(summary, transcripts)
    styles = {method: index % plots.NUM_STYLES for index, method in enumerate(methods)}
    script = _asset("explorer.js")
    tables = rate_tables(summary.cells)
    template = _environment().get_template("page.html.jinja")
    return template.render(
        css=_asset("page.css") + _asset("explorer.css") + _asset("tokens.css"),
        script=script,
        policy=content_policy(script),
        summary=summary,
        styles=styles,
        num_styles=plots.NUM_STYLES,
        methods=methods,
        tables=tables,
        breakdowns=rate_tables(summary.breakdown),
        overview=_overview_columns(tables),
        headline=_headline(tables),
        comparisons=_comparison_tables(summary.comparisons),
        questions=list(Counter(row.question for row in summary.comparisons).items()),
        plots=plots.build_plots(summary.curves, methods=methods),
        titles=plots.TITLES,
        explanations=plots.EXPLANATIONS,
        suites=SUITES,
        browser=transcript_browser(transcripts),
        explorer=explorer(transcripts, styles=styles),
        token_heat=token_heat(transcripts, answers),
        token_legend=legend(),
    )


def write_report(
    folder: Path, summary: Summary, transcripts: Sequence[Transcript], *, answers: Sequence[ScoredAnswer] = ()
) -> None:
    """Write `summary.json` and `report.html` atomically.

    Raises:
        DataError: the summary is not valid (see `render_report`), or contains a non-finite number.
        RunError: the disk is full, or the folder is not writable.
    """
    page = render_report(summary, transcripts, answers=answers)
    write_text(folder / "summary.json", _summary_json(summary))
    write_text(folder / "report.html", page)


def _summary_json(summary: Summary) -> str:
    try:
        return json.dumps(summary.model_dump(), indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise DataError(
            f"summary: expected finite numbers, got a non-finite one ({error}); use null for missing values"
        ) from error


def read_summary(path: Path) -> Summary:
    """Load a `summary.json`.

    Raises:
        DataError: the file is missing, not UTF-8, not JSON, or not a summary; the message names the first error.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}); pass the summary.json of a run") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: expected the JSON of a summary, got invalid content ({error}); run `derta report` again"
        ) from error
    return parse_record(Summary, value, where=str(path))


def content_policy(script: str) -> str:
    """Return the content-security policy of the page: nothing is loaded, and this one script runs.

    Trusted types make the browser refuse any text of a model as markup, even by a mistake in the script.
    """
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _asset(name: str) -> Markup:
    """Return a text file of this package, which the page contains as it is."""
    return Markup((files("derta.reporting") / "templates" / name).read_text(encoding="utf-8"))  # noqa: S704


def _environment() -> Environment:
    """Return the Jinja environment: autoescape, hidden characters made visible, error on undefined names."""
    environment = Environment(
        loader=PackageLoader("derta.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible_value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: Any = {
        "percent": format_percent,
        "number": format_count,
        "p_value": format_p_value,
        "sentence_case": sentence_case,
        "label": label_of,
        "slug": label_slug,
        "transcript_filter": transcript_filter,
    }
    environment.filters |= filters
    return environment


def _methods(summary: Summary, transcripts: Sequence[Transcript]) -> tuple[str, ...]:
    """Return all methods in order of appearance, cells first; the index of a method selects its colour and marker."""
    sources = (summary.cells, summary.curves, summary.breakdown, transcripts)
    return unique(row.method for rows in sources for row in rows)


def _overview_columns(tables: Sequence[RateTable]) -> list[OverviewColumn]:
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


def _headline(tables: Sequence[RateTable]) -> Headline | None:
    """Return the headline: attack success if a judge of harm was run, else the refusal rate; None without either."""
    for measure in ("harmful", "refused"):
        for table in tables:
            means = [(m.value, method) for method, m in zip(table.methods, table.means, strict=True) if m is not None]
            if table.suite == "attack" and table.measure == measure and means:
                (high, highest), (low, lowest) = (
                    max(means, key=lambda mean: mean[0]),
                    min(means, key=lambda mean: mean[0]),
                )
                return Headline(measure, table.judge, table.num_attacks, highest, high, lowest, low)
    return None


def _comparison_tables(comparisons: Sequence[Comparison]) -> list[ComparisonTable]:
    """Group comparisons by suite, measure and judge, each with its conclusion."""
    groups: dict[tuple[CellSuite, str, str], list[tuple[Comparison, str, str]]] = {}
    for c in comparisons:
        groups.setdefault((c.suite, c.measure, c.judge), []).append((c, *_conclusion(c)))
    return [
        ComparisonTable(suite, wording(suite, measure), judge, rows) for (suite, measure, judge), rows in groups.items()
    ]


def _conclusion(comparison: Comparison) -> tuple[str, str]:
    """Return the conclusion of a comparison and its CSS class: `clear`, `open` or `small`."""
    if comparison.only_first + comparison.only_second < MIN_DISCORDANT:
        return "too few differences", "small"
    first_is_lower = comparison.only_first < comparison.only_second
    # pooled over seeds, a method may win more prompts and still have the worse mean: then the result is not clear
    agrees = first_is_lower == (comparison.first_value < comparison.second_value)
    if comparison.p_holm >= SIGNIFICANT or not agrees:
        return "no clear difference", "open"
    return f"{comparison.first if first_is_lower else comparison.second} is lower", "clear"
