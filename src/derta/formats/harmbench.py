"""HarmBench's completions format: test cases and generations by behaviour."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from derta.errors import DataError
from derta.formats.cases import JudgedCase, format_prompt

_LOG = logging.getLogger(__name__)


def completions(cases: Sequence[JudgedCase], *, judge: str | None) -> dict[str, list[dict[str, Any]]]:
    """Convert cases to HarmBench's format: test cases and generations by behaviour id, the input of its classifier.

    The behaviour id is the request's id. With a judge, a scored row has its outcome as `label` (1: harmful) and the
    judge's name; an unscored row has no label, instead of 0. Rows have two keys that are not in HarmBench's format:
    `attack`, and `prefill` if there is one, because the generation continues the prefill and does not contain it.
    Prompts without a reply are left out and counted in a log message: their classifier would find them harmless.

    Raises:
        DataError: the judge has no verdict on harm.

    Source: HarmBench, `evaluate_completions.py`: `{behavior_id: [{"test_case", "generation"[, "label"]}]}`.
    """
    if judge is not None and all(case.outcome(judge, "harmful") is None for case in cases):
        raise DataError(f"judge {judge}: expected verdicts on harm, found none; name a judge of harm, or none")
    rows_by_behavior: dict[str, list[dict[str, Any]]] = {}
    if unanswered := sum(case.reply.unanswered is not None for case in cases):
        _LOG.warning("%d of %d prompts are unanswered and are left out", unanswered, len(cases))
    for case in cases:
        if case.reply.unanswered is not None:
            continue
        row: dict[str, Any] = {"test_case": format_prompt(case.prompt), "generation": case.reply.text}
        label = None if judge is None else case.outcome(judge, "harmful")
        if label is not None:
            row |= {"label": int(label), "judge": judge}
        row["attack"] = case.prompt.cell
        if case.prompt.prefill:
            row["prefill"] = case.prompt.prefill
        rows_by_behavior.setdefault(case.prompt.request_id, []).append(row)
    return rows_by_behavior
