"""Fixtures: cells, transcripts and summaries with every kind of content in benign words, and an HTML parser."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from derta.records import Message, Prompt, Reply, Verdict
from derta.reporting import render_report
from derta.results import (
    Cell,
    Comparison,
    Curve,
    Frontier,
    FrontierAxis,
    FrontierDifference,
    FrontierPoint,
    FrontierRate,
    Place,
    Summary,
    Transcript,
    cell_of,
)
from derta.stats import rate

VOID = {"meta", "link", "wbr", "br", "img", "input", "hr", "col"}


class Page(HTMLParser):
    """Tags, attributes and texts of a page; fails on a closing tag without its opening tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self._open), data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        """All visible and collapsed text, with whitespace collapsed."""
        return " ".join("".join(data for path, data in self.texts if not {"style", "script"} & {*path}).split())

    @property
    def unfolded_text(self) -> str:
        """Text that is visible before any fold is opened: outside `details`."""
        visible = [data for path, data in self.texts if not {"details", "style", "script"} & {*path}]
        return " ".join("".join(visible).split())


@pytest.fixture
def parse() -> Callable[[str], Page]:
    return Page


@pytest.fixture
def make_cell() -> Callable[..., Cell]:
    def make(
        outcomes: list[bool | None],
        *,
        method: str = "derta",
        seed: int | None = None,
        suite: str = "attack",
        name: str = "direct",
        judge: str = "truth",
        measure: str = "harmful",
        category: str | None = None,
        attack: str | None = None,
        variant: str | None = None,
        dataset: str | None = None,
    ) -> Cell:
        return cell_of(
            rate(outcomes),
            place=Place(suite, name, attack, variant, dataset, category),  # pyright: ignore[reportArgumentType]
            method=method,
            seed=seed,
            judge=judge,
            measure=measure,
        )

    return make


@pytest.fixture
def make_transcript() -> Callable[..., Transcript]:
    def make(
        text: str,
        *,
        method: str = "derta",
        request_id: str = "r1",
        attack: str = "direct",
        request: str = "How is tea brewed?",
        prefill: str | None = None,
        refusal_at: int | None = None,
        judge: str = "truth",
        reason: str = "",
        category: str | None = None,
        token_starts: tuple[int, ...] | None = None,
    ) -> Transcript:
        prompt = Prompt(
            id=f"{attack}-{request_id}",
            request_id=request_id,
            request=request,
            attack=attack,
            messages=(Message(role="user", content=request),),
            prefill=prefill,
            category=category,
        )
        verdict = Verdict(prompt_id=prompt.id, judge=judge, harmful=False, refusal_at=refusal_at, reason=reason)
        reply = Reply(prompt_id=prompt.id, text=text, token_starts=token_starts)
        return Transcript(method=method, seed=0, prompt=prompt, reply=reply, verdicts=(verdict,))

    return make


def make_frontier(
    rates: dict[str, tuple[float, ...]],
    *,
    axes: tuple[str, ...] = ("attack_success", "over_refusal"),
    judges: tuple[str, ...] = ("truth",),
    unscored: int = 0,
) -> Frontier:
    """Return a frontier of methods with their rates on some axes; the first method is the baseline."""
    baseline = next(iter(rates))

    def point(method: str) -> FrontierPoint:
        values = dict(zip(axes, rates[method], strict=True))
        differences = {name: value - rates[baseline][axes.index(name)] for name, value in values.items()}
        return FrontierPoint.model_validate(
            {
                "method": method,
                "seeds": (0,),
                "pareto": True,
                "rates": {
                    name: FrontierRate(
                        value=value, low=max(0, value - 0.1), high=min(1, value + 0.1), scored=40, unscored=unscored,
                        unanswered=0,
                    )
                    for name, value in values.items()
                },
                "differences": {
                    name: FrontierDifference(value=value, low=value - 0.1, high=value + 0.1)
                    for name, value in differences.items()
                    if method != baseline
                },
            }
        )  # fmt: skip

    records = [
        FrontierAxis.model_validate(
            {"name": name, "judges": judges, "sets": ("a", "b"), "left_out": {}, "prompts": 40, "prompts_left_out": 0}
        )
        for name in axes
    ]
    return Frontier.model_validate(
        {"baseline": baseline, "axes": records, "compared": axes, "points": [point(method) for method in rates]}
    )


@pytest.fixture(name="make_frontier")
def frontier_maker() -> Callable[..., Frontier]:
    return make_frontier


@pytest.fixture
def make_summary() -> Callable[..., Summary]:
    def make(cells: tuple[Cell, ...] = (), **fields: object) -> Summary:
        base: dict[str, object] = {"title": "Tea", "recipe": "name: tea", "versions": {"derta": "0"}, "cells": cells}
        return Summary.model_validate(base | fields)

    return make


@pytest.fixture
def whole_summary(make_cell: Callable[..., Cell], make_summary: Callable[..., Summary]) -> Callable[[str], Summary]:
    """Return a function that builds a summary with every kind of content, with a given text in all free text."""

    def make(text: str) -> Summary:
        places = [
            ("attack", "harmful"),
            ("attack", "refused"),
            ("over_refusal", "refused"),
            ("helpfulness", "correct"),
            ("analysis", text),
        ]
        cells = tuple(
            make_cell(
                [True, False, None], method=m, suite=suite, name=f"{text}@{text}", judge=text, measure=measure,
                attack=text, variant=text, dataset=text,
            )
            for suite, measure in places
            for m in ("plain", text)
        )  # fmt: skip
        points = {"x": (0, 0.5, 1), "y": (0.1, 0.2, 0.3), "low": (0, 0.1, 0.2), "high": (0.2, 0.3, 0.4)}
        curves = tuple(
            Curve(kind=kind, method=m, name=text, **points, count=9, x_unit=text, y_label=text)
            for kind in ("refusal_position", "refusal_probability", "benign_probability", "roc", "prefill_depth")
            for m in ("plain", text)
        )
        comparison = Comparison(
            first="plain", second=text, suite="attack", name=text, judge=text, measure="harmful",
            attack=text, variant=text, dataset=text,
            first_value=0.5, second_value=0.1, only_first=8, only_second=0, pairs=20,
            p_value=0.0078125, p_holm=0.0078125, difference_low=0.1, difference_high=0.6,
        )  # fmt: skip
        return make_summary(
            cells,
            title=text,
            recipe=text,
            versions={text: text},
            notes=(text,),
            breakdown=tuple(cell.model_copy(update={"category": text}) for cell in cells),
            comparisons=(comparison,),
            curves=curves,
            frontier=make_frontier({"plain": (0.8, 0.01), text: (0.1, 0.4)}, judges=(text,)),
            baseline="plain",
            recommended=text,
        )

    return make


@pytest.fixture(scope="session")
def rendered() -> dict[str, Page]:
    """Cache of the pages of `whole_page`, by text."""
    return {}


@pytest.fixture
def whole_page(
    whole_summary: Callable[[str], Summary], make_transcript: Callable[..., Transcript], rendered: dict[str, Page]
) -> Callable[[str], Page]:
    """Return a function that renders a page, all of whose text from title to reply is a given text. Read only."""

    def make(text: str) -> Page:
        name = text.replace("\ud800", "?")  # names must not contain lone surrogates; free text may
        rows = [
            make_transcript(
                text * 3, method=method, request_id=name, attack=name, request=name, prefill=text,
                refusal_at=len(text), judge=name, reason=text, category=text,
            )
            for method in ("plain", text)
        ]  # fmt: skip
        return Page(render_report(whole_summary(text), rows))

    def cached(text: str) -> Page:
        if text not in rendered:
            rendered[text] = make(text)
        return rendered[text]

    return cached
