"""Render the report: one offline HTML page with one script of its own; model output is collapsed by default."""

from __future__ import annotations

import json
import shlex
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from derta.errors import DataError
from derta.files import parse_record, write_text
from derta.reporting import plots
from derta.reporting.comparing import comparison_tables
from derta.reporting.explorer import explorer
from derta.reporting.heat_map import heat_groups
from derta.reporting.outcome_bars import SEGMENTS, outcome_groups
from derta.reporting.overview import overview_columns
from derta.reporting.redaction import redacted, redacted_answers
from derta.reporting.scatter import build_scatters
from derta.reporting.tables import SUITES, label_of, rate_tables, unique
from derta.reporting.text import (
    format_count,
    format_percent,
    label_slug,
    sentence_case,
    transcript_filter,
    visible_value,
)
from derta.reporting.token_heat import legend, token_heat
from derta.reporting.training import build_term_plots, format_seconds
from derta.reporting.transcripts import transcript_browser
from derta.reporting.verdict import verdict
from derta.results import ScoredAnswer, Summary, Transcript
from derta.run_details import RunDetails, TrainingLog
from derta.significance import format_p_value


def render_report(
    summary: Summary,
    transcripts: Sequence[Transcript],
    *,
    answers: Sequence[ScoredAnswer] = (),
    redact: bool = False,
    details: RunDetails | None = None,
) -> str:
    """Render the HTML page; the output is deterministic.

    Args:
        summary: The numbers.
        transcripts: All replies.
        answers: Harmful answers, shown token by token.
        redact: Whether to leave out the texts of attacks, of harmful replies and of `answers`.
        details: Training, cost and judges of the runs, and how to repeat them.

    Raises:
        DataError: two cells have the same key, or the x and y values of a curve differ in length.
    """
    if redact:
        transcripts, answers = redacted(transcripts), redacted_answers(answers)
    methods = _methods(summary, transcripts, () if details is None else details.training)
    styles = {method: index % plots.NUM_STYLES for index, method in enumerate(methods)}
    script = _asset("explorer.js")
    tables = rate_tables(summary.cells)
    browser = transcript_browser(transcripts)
    outcomes = outcome_groups(transcripts, methods=methods)
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
        v=verdict(summary),
        heat=heat_groups(summary.cells, methods=methods),
        scatters=build_scatters(summary.frontier, methods=methods),
        outcomes=outcomes,
        segments=SEGMENTS,
        has_unjudged=any(part.number for group in outcomes for bar in group.bars for part in bar.parts[-1:]),
        overview=overview_columns(tables),
        comparisons=comparison_tables(summary.comparisons),
        questions=list(Counter(row.question for row in summary.comparisons).items()),
        plots=plots.build_plots(summary.curves, methods=methods),
        explanations=plots.EXPLANATIONS,
        suites=SUITES,
        browser=browser,
        explorer=explorer(transcripts, styles=styles),
        token_heat=token_heat(transcripts, answers),
        token_legend=legend(),
        redact=redact,
        anchors={group.slug for group in browser.groups},
        details=details,
        term_plots=() if details is None else build_term_plots(details.training, methods=methods),
    )


def write_report(
    folder: Path,
    summary: Summary,
    transcripts: Sequence[Transcript],
    *,
    answers: Sequence[ScoredAnswer] = (),
    redact: bool = False,
    details: RunDetails | None = None,
) -> None:
    """Write `summary.json`, which has no prompts and no replies, and `report.html` atomically.

    Raises:
        DataError: the summary is not valid (see `render_report`), or contains a non-finite number.
        RunError: the disk is full, or the folder is not writable.
    """
    page = render_report(summary, transcripts, answers=answers, redact=redact, details=details)
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


@cache
def _environment() -> Environment:
    """Return the Jinja environment (cached): autoescape, hidden characters made visible, error on undefined names."""
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
        "seconds": format_seconds,
        "shell": shlex.quote,
    }
    environment.filters |= filters
    return environment


def _methods(summary: Summary, transcripts: Sequence[Transcript], logs: Sequence[TrainingLog] = ()) -> tuple[str, ...]:
    """Return all methods in order of appearance, cells first; the index of a method selects its colour and marker."""
    points = () if summary.frontier is None else summary.frontier.points
    sources = (summary.cells, summary.curves, summary.breakdown, transcripts, points, logs)
    return unique(row.method for rows in sources for row in rows)
