"""The report: one HTML page that works offline, runs no script, and shows what models wrote only behind a fold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from derta.errors import DataError
from derta.files import parse_record, write_text
from derta.reporting import plots
from derta.reporting.tables import SUITES, Mean, RateTable, distinct, label_of, rate_tables
from derta.reporting.text import count, p_value, percent, plain, shown
from derta.reporting.transcripts import browser
from derta.reporting.wordings import Wording, wording
from derta.results import CellSuite, Comparison, Summary, Transcript

# With fewer discordant pairs an exact McNemar test cannot reach p < 0.05, whatever they say: 2 * 0.5**5 = 0.0625.
MIN_DISCORDANT = 6
SIGNIFICANT = 0.05
GLANCED = ("harmful", "refused", "correct")  # the first table's columns; other measures tell more of these


@dataclass(frozen=True, slots=True)
class Glance:
    """A column of the first table: each method's mean over the attacks (or data sets) of one table."""

    table: RateTable
    means: dict[str, Mean | None]


class ComparisonTable(NamedTuple):
    """Comparisons of one suite, measure and judge: (comparison, what it says, `clear`, `open` or `small`)."""

    suite: CellSuite
    wording: Wording
    judge: str
    rows: list[tuple[Comparison, str, str]]


class Headline(NamedTuple):
    """The methods with the highest and the lowest mean of the first attack table, and what it is a mean of."""

    measure: str
    judge: str
    num_attacks: int
    highest: str
    highest_value: float
    lowest: str
    lowest_value: float


def render_report(summary: Summary, transcripts: Sequence[Transcript]) -> str:
    """The whole page as text; the same input gives the same text.

    Raises:
        DataError: two cells claim one place, or a curve's points do not match.
    """
    methods = _methods(summary, transcripts)
    tables = rate_tables(summary.cells)
    template = _environment().get_template("page.html.jinja")
    return template.render(
        css=Markup(_asset("page.css")),  # noqa: S704 our own file
        summary=summary,
        styles={method: index % plots.NUM_STYLES for index, method in enumerate(methods)},
        num_styles=plots.NUM_STYLES,
        methods=methods,
        tables=tables,
        breakdowns=rate_tables(summary.breakdown),
        glances=_glances(tables),
        headline=_headline(tables),
        comparisons=_comparisons(summary.comparisons),
        questions=list(Counter(one.question for one in summary.comparisons).items()),
        plots=plots.plots(summary.curves, methods=methods),
        titles=plots.TITLES,
        explanations=plots.EXPLANATIONS,
        suites=SUITES,
        browser=browser(transcripts),
    )


def write_report(folder: Path, summary: Summary, transcripts: Sequence[Transcript]) -> None:
    """Write `summary.json` and `report.html`, each whole or not at all.

    Raises:
        DataError: the summary cannot be shown or stored (see `render_report`), or holds a number that is not finite.
        RunError: the disk is full, or the folder cannot be written.
    """
    page = render_report(summary, transcripts)
    write_text(folder / "summary.json", _summary_json(summary))
    write_text(folder / "report.html", page)


def _summary_json(summary: Summary) -> str:
    try:
        return json.dumps(summary.model_dump(), indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise DataError(
            f"summary: expected finite numbers, got one that is not ({error}); what was not measured is null"
        ) from error


def read_summary(path: Path) -> Summary:
    """Read a `summary.json`.

    Raises:
        DataError: the file is missing, not UTF-8, not JSON, or not a summary; the first fault is named.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}); give a summary.json that a run wrote") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: expected the JSON of a summary, got something else ({error}); write the report again"
        ) from error
    return parse_record(Summary, value, where=str(path))


def _asset(name: str) -> str:
    return (files("derta.reporting") / "templates" / name).read_text(encoding="utf-8")


def _environment() -> Environment:
    """Templates that escape every value, make every text visible, and fail on a name they do not know."""
    environment = Environment(
        loader=PackageLoader("derta.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: Any = {
        "percent": percent,
        "number": count,
        "p_value": p_value,
        "plain": plain,
        "label": label_of,
    }
    environment.filters |= filters
    return environment


def _methods(summary: Summary, transcripts: Sequence[Transcript]) -> tuple[str, ...]:
    """Every method of the page in order of appearance, cells first: its place decides colour and marker."""
    sources = (summary.cells, summary.curves, summary.breakdown, transcripts)
    return distinct(row.method for rows in sources for row in rows)


def _glances(tables: Sequence[RateTable]) -> list[Glance]:
    return [
        Glance(table, dict(zip(table.methods, table.means, strict=True)))
        for table in tables
        if table.suite != "analysis" and table.measure in GLANCED
    ]


def _headline(tables: Sequence[RateTable]) -> Headline | None:
    """What the first lines say: attack success where a judge of harm spoke, else the refusal rate, else nothing."""
    for measure in ("harmful", "refused"):
        for table in tables:
            means = [(m.value, method) for method, m in zip(table.methods, table.means, strict=True) if m is not None]
            if table.suite == "attack" and table.measure == measure and means:
                (high, highest), (low, lowest) = (
                    max(means, key=lambda mean: mean[0]),
                    min(means, key=lambda mean: mean[0]),
                )
                return Headline(measure, table.judge, table.num_families, highest, high, lowest, low)
    return None


def _comparisons(comparisons: Sequence[Comparison]) -> list[ComparisonTable]:
    """The comparisons of each suite, measure and judge, with what each allows to say."""
    groups: dict[tuple[CellSuite, str, str], list[tuple[Comparison, str, str]]] = {}
    for c in comparisons:
        groups.setdefault((c.suite, c.measure, c.judge), []).append((c, *_reading(c)))
    return [
        ComparisonTable(suite, wording(suite, measure), judge, rows) for (suite, measure, judge), rows in groups.items()
    ]


def _reading(comparison: Comparison) -> tuple[str, str]:
    """What a comparison allows to say, and how sure that is: `clear`, `open` or `small`."""
    if comparison.only_first + comparison.only_second < MIN_DISCORDANT:
        return "too small to tell", "small"
    first_is_lower = comparison.only_first < comparison.only_second
    # over several seeds a method may win more prompts and still have the worse mean: then neither is called lower
    agrees = first_is_lower == (comparison.first_value < comparison.second_value)
    if comparison.p_holm >= SIGNIFICANT or not agrees:
        return "no clear difference", "open"
    return f"{comparison.first if first_is_lower else comparison.second} is lower", "clear"
