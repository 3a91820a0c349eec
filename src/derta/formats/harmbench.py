"""HarmBench's completions: test cases and generations by behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from derta.errors import DataError
from derta.formats.cases import JudgedCase, format_prompt


def completions(cases: Sequence[JudgedCase], *, judge: str | None) -> dict[str, list[dict[str, Any]]]:
    """Test cases by behaviour id, which is the request's; HarmBench's own classifier takes it from there.

    A judge's word goes along as `label` (1: harmful), and with it the judge's name. What was not scored has no label,
    rather than 0. Keys that HarmBench does not know say the attack and what was prefilled: the generation goes on after
    the prefill, and does not repeat it.

    Raises:
        DataError: the judge never tells harm.

    Source: HarmBench, `evaluate_completions.py`: `{behavior_id: [{"test_case", "generation"[, "label"]}]}`.
    """
    if judge is not None and all(case.outcome(judge, "harmful") is None for case in cases):
        raise DataError(f"judge {judge}: expected verdicts on harm, found none; name a judge of harm, or none")
    found: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        row: dict[str, Any] = {"test_case": format_prompt(case.prompt), "generation": case.reply.text}
        label = None if judge is None else case.outcome(judge, "harmful")
        if label is not None:
            row |= {"label": int(label), "judge": judge}
        row["attack"] = case.prompt.cell
        if case.prompt.prefill:
            row["prefill"] = case.prompt.prefill
        found.setdefault(case.prompt.request_id, []).append(row)
    return found
