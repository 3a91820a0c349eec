"""Prompts, replies and verdicts for the tests of metrics."""

from __future__ import annotations

from derta.metrics.rates import PromptVerdict
from derta.records import Prompt, Reply, Suite, Verdict


def prompt(name: str, *, variant: str | None = None, category: str | None = None, suite: Suite = "attack") -> Prompt:
    return Prompt(
        id=name, request_id=name, request="?", attack="prefill", variant=variant, mode="raw", text="?",
        category=category, suite=suite, dataset="xstest" if suite == "over_refusal" else None,
    )  # fmt: skip


def verdict(name: str, **fields: object) -> Verdict:
    return Verdict.model_validate({"prompt_id": name, "judge": "j", **fields})


def harmful(outcomes: list[bool | None], **fields: str) -> list[PromptVerdict]:
    return [
        (Prompt.model_validate({**prompt(str(i)).model_dump(), **fields}), verdict(str(i), harmful=one))
        for i, one in enumerate(outcomes)
    ]


def reply(name: str, text: str, starts: tuple[int, ...] | None = None) -> Reply:
    return Reply(prompt_id=name, text=text, token_starts=starts)
