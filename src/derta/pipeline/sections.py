"""Which of a recipe's evaluations a prompt came from, and what that says: how long replies may be, and who judges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from derta.config import EvaluationSection, Recipe
from derta.judges import build_judge
from derta.pipeline.evaluate import judge_all
from derta.protocols import Judge
from derta.records import Prompt, Reply, Verdict


def token_limits(recipe: Recipe, prompts: Sequence[Prompt]) -> dict[str, int]:
    """The most new tokens of each prompt, by id."""
    default = recipe.generate.max_new_tokens
    return {prompt.id: section_of(prompt, recipe).max_new_tokens or default for prompt in prompts}


def section_of(prompt: Prompt, recipe: Recipe) -> EvaluationSection:
    """Return the evaluation that a prompt came from: of its attack and name, or else of a file of prompts."""
    sections = {section.key: section for section in recipe.evaluate}
    keys = ((prompt.suite, prompt.attack, prompt.dataset), (prompt.suite, None, prompt.dataset), (None, None, None))
    return next(sections[key] for key in keys if key in sections)


def judge_sections(
    recipe: Recipe, prompts: Sequence[Prompt], *, replies: Sequence[Reply], home: Path
) -> dict[str, list[Verdict | None]]:
    """Each judge on the prompts of the evaluations that name it."""
    names = dict.fromkeys(judge for section in recipe.evaluate for judge in section.judges)
    wanted = [section_of(prompt, recipe).judges for prompt in prompts]
    return {
        judge: judge_some(
            build_judge(judge),
            prompts,
            replies=replies,
            chosen=[judge in judges for judges in wanted],
            path=home / f"verdicts.{judge}.jsonl",
        )
        for judge in names
    }


def judge_some(
    judge: Judge, prompts: Sequence[Prompt], *, replies: Sequence[Reply], chosen: Sequence[bool], path: Path
) -> list[Verdict | None]:
    """Verdicts on the chosen prompts, None for the others."""
    picked = [i for i, choose in enumerate(chosen) if choose]
    verdicts = judge_all(judge, [prompts[i] for i in picked], [replies[i] for i in picked], path=path)
    found: list[Verdict | None] = [None] * len(prompts)
    for i, verdict in zip(picked, verdicts, strict=True):
        found[i] = verdict
    return found
