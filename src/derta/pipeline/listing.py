"""Names that a recipe or a command may use: attacks, judges, methods, formats and data sets, each with a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any, NamedTuple

from derta.attacks import ATTACKS
from derta.data.detection import names_of, required_names
from derta.data.helpful_formats import HELPFUL_FORMATS
from derta.data.pair_formats import PAIR_FORMATS
from derta.data.public_sets import PUBLIC_SETS
from derta.data.request_formats import REQUEST_FORMATS
from derta.data.triple_formats import TRIPLE_FORMATS
from derta.docstrings import summary
from derta.errors import RecipeError, did_you_mean
from derta.formats import FORMATS
from derta.judges import JUDGES, uses_model
from derta.judges.base import FunctionJudge
from derta.judges.model_judge import ModelJudge
from derta.judges.rubrics import RUBRICS
from derta.methods import METHODS
from derta.records import Record
from derta.sources.named import NAMED
from derta.sources.shipped import PREFIX, SHIPPED


class Listed(Record):
    """A name with one sentence on it, and its options, columns or properties by name, as texts."""

    name: str
    description: str
    options: dict[str, str]


class Kind(NamedTuple):
    """A kind of names: their list, the word for their options, and a sentence on their use."""

    listed: Callable[[], Iterator[Listed]]
    header: str
    hint: str


def list_names(kind: str) -> list[Listed]:
    """Return the names of a kind with their descriptions and options.

    >>> [one.options for one in list_names("attacks") if one.name == "prefill"][0]["tokenizer"]
    'None'

    Raises:
        RecipeError: there is no such kind.
    """
    return [*_kind(kind).listed()]


def list_lines(kind: str) -> list[str]:
    """Return an entry for each name: the name with its description, and its options on the next line."""
    found = _kind(kind)
    lines = [
        f"{one.name}: {one.description}" + (f"\n{found.header}: {_in_line(one.options)}" if one.options else "")
        for one in found.listed()
    ]
    return [*lines, found.hint]


def _in_line(options: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" if value else name for name, value in options.items())


def _kind(kind: str) -> Kind:
    if kind not in LISTS:
        raise RecipeError(f"list: expected one of {', '.join(LISTS)}, got {kind!r:.60}; {did_you_mean(kind, LISTS)}")
    return LISTS[kind]


def _attacks() -> Iterator[Listed]:
    return (Listed(name=name, description=summary(one), options=_options(one)) for name, one in ATTACKS.items())


def _options(function: Callable[..., Any]) -> dict[str, str]:
    """Return the options of a function with their defaults; one that has none is required."""
    defaults = {name: one.default for name, one in signature(function).parameters.items()}
    return {name: "(required)" if one is Parameter.empty else _text(one) for name, one in defaults.items()}


def _text(value: object) -> str:
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, tuple) else str(value)


def _judges() -> Iterator[Listed]:
    for name, build in JUDGES.items():
        if uses_model(name):
            model = {"measures": _options(ModelJudge)["measures"], "model": "(required)"}
            yield Listed(name=name, description=RUBRICS[name].description, options=model)
            continue
        judge = build()
        function = judge.function if isinstance(judge, FunctionJudge) else build
        text = summary(function.func if isinstance(function, partial) else function) or summary(build)
        yield Listed(name=name, description=_returned(text), options={"measures": judge.measures})


def _returned(text: str) -> str:
    """Return what a function returns, from the summary of its docstring.

    >>> _returned("Return a verdict on the final number.")
    'A verdict on the final number.'
    """
    text = text.removeprefix("Return ")
    return text[:1].upper() + text[1:]


def _methods() -> Iterator[Listed]:
    for name, one in METHODS.items():
        own = {key: _text(value) for key, value in one.defaults.items()} | dict.fromkeys(one.own_settings, "")
        start = {} if one.init_from is None else {"init_from": one.init_from}
        yield Listed(name=name, description=one.description, options={**start, **own})


_READERS: Mapping[str, Mapping[str, Any]] = {
    "data.triples": TRIPLE_FORMATS,
    "data.helpful, data.counter": HELPFUL_FORMATS,
    "data.preferences": PAIR_FORMATS,
    "requests": REQUEST_FORMATS,
}


def _formats() -> Iterator[Listed]:
    for key, formats in _READERS.items():
        for name, one in formats.items():
            needed = required_names(one)
            others = [column for column in names_of(one) if not any(column in some.split("|") for some in needed)]
            columns = dict.fromkeys(needed, "") | {f"[{column}]": "" for column in others}
            yield Listed(name=name, description=f"A format of {key}.", options=columns)
    for name in FORMATS:
        yield Listed(name=name, description="A format of derta export.", options={})


def _datasets() -> Iterator[Listed]:
    for name, one in SHIPPED.items():
        options = {"use": one.use, "licence": one.licence}
        yield Listed(name=f"{PREFIX}{name}", description=one.description, options=options)
    for name, one in NAMED.items():
        options = {"suite": one.suite, "rows": f"{one.rows:,}", "licence": one.licence or "its page states none"}
        options |= {"copy": one.path or f"download it from {one.home}"} | ({"gated": "yes"} if one.gated else {})
        yield Listed(name=name, description=one.description, options=options)
    for one in PUBLIC_SETS:
        options = {"use": one.use, "format": one.format, "licence": one.licence or "see its page"}
        yield Listed(name=one.path, description=one.description, options=options)


LISTS: Mapping[str, Kind] = {
    "attacks": Kind(_attacks, "options", "In a recipe: attack: NAME, options: {OPTION: VALUE}; docs/attacks.md."),
    "judges": Kind(
        _judges,
        "properties",
        "In a recipe: judges: [NAME], or {name: NAME, model: MODEL}; docs/judges.md.",
    ),
    "methods": Kind(_methods, "own settings", "In a recipe: methods: [NAME]; docs/methods.md."),
    "formats": Kind(_formats, "columns", "Columns in brackets are optional, of a|b one is needed; docs/data.md."),
    "datasets": Kind(
        _datasets,
        "properties",
        "In a recipe: requests: {name: NAME}, and path: FILE for a copy; docs/datasets.md.",
    ),
}
"""Kinds of names that are listed."""
