"""Model card of a trained model: metadata for the Hugging Face Hub, and Markdown from its run's `summary.json`.

The card has names, numbers and hashes only: no prompt, no reply and no other text of the data. Names come from a recipe
and are escaped, so that none of them can be markup.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from derta.errors import escape_hidden
from derta.metrics.axes import AXES, OUTSIDE
from derta.reporting.comparing import format_points, format_points_interval
from derta.reporting.text import MISSING, format_percent
from derta.results import AxisName, Cell, FrontierPoint, FrontierRate, Summary

UNKNOWN = "unknown: state it"
_MARKUP = re.compile(r"([\\`*_{}\[\]#|~$!])")
_LISTED = ("harmful", "refused", "correct", "malformed")
_MEASURED: tuple[AxisName, ...] = ("attack_success", "over_refusal", "helpfulness")


class DataSource(NamedTuple):
    """A source of training data: its key in the recipe, its name, the SHA-256 of its file, and its licence."""

    use: str
    name: str
    sha256: str | None
    licence: str | None


class CardFacts(NamedTuple):
    """Facts of a trained model that its card states in addition to the measured rates.

    Attributes:
        name: Name of the model.
        method: Name of its training method, and `description`, one sentence on it.
        seed: Its seed.
        base: Base model: a hub id, or the name of a local folder.
        base_version: Commit of a hub id, or hash of the folder's files; None if unknown.
        hub_base: Hub id of the base model for the metadata; None if unknown.
        is_adapter: Whether the files are a PEFT adapter.
        license: Licence of the model; None if it is not stated.
        model_hash: Hash of the model's files.
        recipe: Title of the recipe, and `recipe_hash` of its values.
        commit: Commit of derta; None for an installed package.
        versions: Versions of the packages.
        settings: Training settings by name.
        sources: Sources of the training data.
        judges: Descriptions of the judges by name.
    """

    name: str
    method: str
    description: str
    seed: int
    base: str
    base_version: str | None
    hub_base: str | None
    is_adapter: bool
    license: str | None
    model_hash: str
    recipe: str
    recipe_hash: str
    commit: str | None
    versions: Mapping[str, str]
    settings: Mapping[str, object]
    sources: tuple[DataSource, ...]
    judges: Mapping[str, str]


class CardRate(NamedTuple):
    """Row of the table of rates, as texts in percent; `baseline` and `difference` are empty for the baseline itself."""

    title: str
    better: str
    value: str
    interval: str
    cases: int
    without: int
    judges: str
    baseline: str
    difference: str


def render_card(facts: CardFacts, summary: Summary) -> str:
    """Return the Markdown of a model's card, with its metadata as YAML.

    Args:
        facts: What the model is.
        summary: Rates of its run; its frontier has the model's method.
    """
    assert summary.frontier is not None  # noqa: S101 - by the caller
    frontier = summary.frontier
    points = {point.method: point for point in frontier.points}
    point, baseline = points[facts.method], points.get(frontier.baseline)
    axes = [axis.name for axis in frontier.axes]
    text = _environment().get_template("model_card.md.jinja").render(
        f=facts,
        metadata=Markup(_metadata(facts)),  # noqa: S704 - YAML of a serializer
        rates=[_rate(axis.name, ", ".join(axis.judges), point, baseline) for axis in frontier.axes],
        baseline=None if baseline is None or baseline is point else baseline.method,
        seeds=point.seeds,
        cells=[cell for cell in summary.cells if _is_listed(cell, facts)],
        outside=list(dict.fromkeys(n for axis in frontier.axes for n, why in axis.left_out.items() if why == OUTSIDE)),
        missing=[AXES[name].title for name in _MEASURED if name not in axes],
        packages=[f"{name} {version}" for name, version in facts.versions.items() if name != "derta"],
        unknown=[source.name for source in facts.sources if source.licence is None],
        unknown_licence=UNKNOWN,
    )  # fmt: skip
    return text if text.endswith("\n") else text + "\n"


def _metadata(facts: CardFacts) -> str:
    """Return the YAML at the start of a card, which the hub reads."""
    kind: Any = {"base_model_relation": "adapter" if facts.is_adapter else "finetune"}
    data = ModelCardData(
        base_model=facts.hub_base,
        library_name="peft" if facts.is_adapter else "transformers",
        license=facts.license,
        pipeline_tag="text-generation",
        tags=["derta", "safety", "refusal", facts.method],
        **(kind if facts.hub_base else {}),
    )
    return data.to_yaml()


def _rate(name: AxisName, judges: str, point: FrontierPoint, baseline: FrontierPoint | None) -> CardRate:
    rate = point.rates[name]
    is_other = baseline is not None and baseline is not point
    difference = point.differences.get(name)
    interval = difference and format_points_interval(difference.low, difference.high)
    return CardRate(
        title=AXES[name].title,
        better=AXES[name].better,
        value=format_percent(rate.value),
        interval=_interval(rate),
        cases=rate.scored,
        without=rate.unscored + rate.unanswered,
        judges=judges,
        baseline=format_percent(baseline.rates[name].value) if baseline is not None and is_other else "",
        difference=f"{format_points(difference.value)} ({interval})" if difference is not None and is_other else "",
    )


def _interval(rate: FrontierRate | Cell) -> str:
    if rate.low is None or rate.high is None:
        return MISSING
    return f"{format_percent(rate.low)}–{format_percent(rate.high)}"


def _is_listed(cell: Cell, facts: CardFacts) -> bool:
    is_its_own = (cell.method, cell.seed) == (facts.method, facts.seed)
    return is_its_own and cell.suite != "analysis" and cell.measure in _LISTED


def markdown_text(value: object) -> object:
    r"""Return a template value with everything escaped that Markdown or HTML could read as markup, in one line.

    >>> markdown_text("a|b <b> *c*\n# d")
    'a\\|b &lt;b&gt; \\*c\\* \\# d'
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    text = " ".join(escape_hidden(value).split())
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, entity)
    return _MARKUP.sub(r"\\\1", text)


def code(value: object) -> Markup:
    """Return a text as a code span of Markdown; characters that could end it or a table's cell are replaced.

    >>> print(code("org/name"), code("a`b|c"))
    `org/name` `a'b¦c`
    """
    text = " ".join(escape_hidden(str(value)).split()).replace("`", "'").replace("|", "¦")
    return Markup(f"`{text or ' '}`")  # noqa: S704 - no character of the text can end the span


@cache
def _environment() -> Environment:
    """Return the Jinja environment for Markdown (cached): values are escaped, and an undefined name is an error."""
    environment = Environment(  # noqa: S701 - `finalize` escapes; HTML's escaping is wrong in Markdown
        loader=PackageLoader("derta.reporting"),
        undefined=StrictUndefined,
        finalize=markdown_text,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: Mapping[str, Callable[..., Any]] = {"code": code, "percent": format_percent, "interval": _interval}
    environment.filters |= filters
    return environment
