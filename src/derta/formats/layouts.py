"""Layouts of published files of replies: each row becomes rows with the columns of docs/replies.md.

A layout is recognised by its columns, in lower case. The rows of other files have these columns already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast

from derta.columns import REPLY, columns_of
from derta.formats.api_outputs import (
    SAMPLES,
    completion_rows,
    has_samples,
    is_completion,
    is_promptfoo,
    lm_eval_rows,
    promptfoo_rows,
    sample_rows,
)
from derta.formats.conversations import conversation_rows, is_conversation
from derta.sources import Row

Values = Mapping[str, Any]


class Layout(NamedTuple):
    """Layout of a file: whether its names of columns allow it, whether a row has it, and the rows of our schema."""

    has_names: Callable[[frozenset[str]], bool]
    matches: Callable[[Values], bool]
    convert: Callable[[Values, str], Iterator[dict[str, Any]]]


def schema_rows(row: Row) -> Iterator[Row]:
    """Yield the rows of our schema that a row of a published file holds; a row without named columns is unchanged.

    >>> [one.value for one in schema_rows(Row("a.csv:2", {"question": "7", "Response": "Mix.", "label": "0"}))]
    [{'request_id': '7', 'response': 'Mix.', 'harmful': '0'}]

    Raises:
        DataError: two names of columns differ only in case, or a conversation is malformed.
    """
    if not isinstance(row.value, dict) or "prompt_id" in row.value:
        yield row
        return
    values = columns_of(row).values
    layout = next((layout for layout in _layouts_of(frozenset(values)) if layout.matches(values)), None)
    if layout is None:
        yield Row(row.where, values)
    else:
        yield from (Row(row.where, converted) for converted in layout.convert(values, row.where))


@lru_cache(maxsize=64)
def _layouts_of(names: frozenset[str]) -> tuple[Layout, ...]:
    """Return the layouts that columns of these names may have; the rows of a file have the same names (cached)."""
    return tuple(layout for layout in LAYOUTS.values() if layout.has_names(names))


def _rename(values: Values, names: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """Return the values by new names; those renamed to an empty name are left out."""
    renamed = {names.get(name, name): value for name, value in values.items() if names.get(name, name)}
    return renamed | more


def _is_index(values: Values) -> bool:
    return str(values["question"]).strip().isdecimal()


def _gptfuzz(values: Values, _where: str) -> Iterator[dict[str, Any]]:
    """GPTFuzz's labels: the question is an index, and the label is 1 for a harmful reply."""
    index = str(values["question"]).strip()
    yield {"request_id": index, **_rename(values, {"question": "", "label": "harmful"})}


def _beavertails(values: Values, _where: str) -> Iterator[dict[str, Any]]:
    """BeaverTails: the category is a mapping of the names of harms to true or false."""
    category = values.get("category")
    if isinstance(category, dict):
        names = [name for name, is_true in cast("dict[str, object]", category).items() if is_true is True]
        category = ", ".join(sorted(names)) or None
    yield _rename(values, {}, category=category)


def _wildguard(values: Values, _where: str) -> Iterator[dict[str, Any]]:
    """WildGuardMix: `adversarial` prompts are an attack; the label of the prompt is not one of the reply."""
    adversarial = str(values.get("adversarial")).lower() in {"true", "1"}
    names = {"adversarial": "", "prompt_harm_label": "", "prompt_harm_agreement": ""}
    yield _rename(values, names, attack="adversarial" if adversarial else "direct")


_SUFFIXES = ("_response", "_harmful", "_action")


def _models(names: Iterable[str]) -> list[str]:
    """Return the models of a row with a column of replies for each."""
    return [name.removesuffix("_response") for name in names if name.endswith("_response")]


def _is_wide(names: frozenset[str]) -> bool:
    return "question" in names and bool(_models(names)) and names.isdisjoint(REPLY)


def _wide(values: Values, _where: str) -> Iterator[dict[str, Any]]:
    """Do-Not-Answer: each row has the replies of several models, and people's labels of each."""
    models = _models(values)
    taken = {f"{model}{suffix}" for model in models for suffix in _SUFFIXES}
    common = {name: value for name, value in values.items() if name not in taken}
    if "id" in common:
        common["request_id"] = common.pop("id")
    for model in models:
        labels = {suffix[1:]: values[f"{model}{suffix}"] for suffix in _SUFFIXES if f"{model}{suffix}" in values}
        yield {**common, "model": model, **labels}


def _always(_values: Values) -> bool:
    return True


def _has_any(*wanted: str) -> Callable[[frozenset[str]], bool]:
    """Return a test of whether any of the names is a column."""
    return lambda names: not names.isdisjoint(wanted)


LAYOUTS: Mapping[str, Layout] = {
    "gptfuzz": Layout(frozenset({"question", "response", "label"}).issubset, _is_index, _gptfuzz),
    "wildguard": Layout(frozenset({"prompt", "response", "prompt_harm_label"}).issubset, _always, _wildguard),
    "beavertails": Layout(frozenset({"prompt", "response", "is_safe"}).issubset, _always, _beavertails),
    "do_not_answer": Layout(_is_wide, _always, _wide),
    "conversation": Layout(_has_any("messages", "conversations"), is_conversation, conversation_rows),
    "completion": Layout(_has_any("custom_id", "choices"), is_completion, completion_rows),
    "lm_eval": Layout(frozenset({"doc_id", "resps"}).issubset, _always, lm_eval_rows),
    "promptfoo": Layout(frozenset({"prompt", "provider"}).issubset, is_promptfoo, promptfoo_rows),
    "samples": Layout(_has_any(*SAMPLES), has_samples, sample_rows),
}
