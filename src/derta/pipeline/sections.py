"""Which of a recipe's evaluations a prompt came from, and what that says: how long replies may be, and who judges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from derta.judges import JUDGES
from derta.pipeline.evaluate import judge_all
from derta.protocols import Judge
from derta.recipe import Recipe
from derta.records import Prompt, Reply, Verdict


def token_limits(recipe: Recipe, prompts: Sequence[Prompt]) -> dict[str, int]:
    """The most new tokens of each prompt, by id."""
    own = {section_key(s.suite, s.attack, s.name): s.max_new_tokens for s in recipe.evaluate}
    default = recipe.generate.max_new_tokens
    return {prompt.id: own[prompt_key(prompt)] or default for prompt in prompts}


def section_key(suite: str, attack: str, name: str | None) -> tuple[str, str, str | None]:
    """What tells evaluations of a recipe apart."""
    return suite, attack, name


def prompt_key(prompt: Prompt) -> tuple[str, str, str | None]:
    """The evaluation that a prompt came from."""
    return section_key(prompt.suite, prompt.attack, prompt.dataset)


def judge_sections(
    recipe: Recipe, prompts: Sequence[Prompt], *, replies: Sequence[Reply], home: Path
) -> dict[str, list[Verdict | None]]:
    """Each judge on the prompts of the evaluations that name it."""
    wanted: dict[str, set[tuple[str, str, str | None]]] = {}
    for section in recipe.evaluate:
        for judge in section.judges:
            wanted.setdefault(judge, set()).add(section_key(section.suite, section.attack, section.name))
    return {
        judge: judge_some(
            JUDGES[judge].judge,
            prompts,
            replies=replies,
            chosen=[prompt_key(prompt) in keys for prompt in prompts],
            path=home / f"verdicts.{judge}.jsonl",
        )
        for judge, keys in wanted.items()
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
