"""Prompts to replies to verdicts, each stage resumed by id from what its file holds already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from derta.attacks import Attack, build_attack
from derta.attacks.prompts import as_suite
from derta.config import EvaluationSection, Recipe, SectionKey
from derta.errors import DataError, RecipeError
from derta.files import Appender, drop_torn_line, read_records, write_records
from derta.pipeline.data import section_requests
from derta.protocols import Case, Display, Engine, Judge
from derta.records import Prompt, Reply, ReplyKey, Request, Verdict

R = TypeVar("R", Reply, Verdict)


def craft_prompts(recipe: Recipe, *, held_out: Sequence[Request], seed: int) -> list[Prompt]:
    """The prompts of a recipe's evaluations, but for attacks that search: each model gets prompts of its own there."""
    prompts: list[Prompt] = []
    seen: set[SectionKey] = set()
    for section in recipe.evaluate:
        if section.key in seen:
            what = f"{section.suite} {section.attack}" if section.prompts is None else "prompts"
            raise RecipeError(f"evaluate: got two sections of {what}; give each a `name`")
        seen.add(section.key)
        if section.prompts is None and section_attack(section).searches:
            continue
        found = _section_prompts(section, held_out=held_out, seed=seed)
        if section.name is not None:
            found = as_suite(found, suite=section.suite, dataset=section.name)
        prompts += found if section.prompts is None else _check_apart(found, section, recipe)
    check_unique(prompts)
    return prompts


def section_attack(section: EvaluationSection) -> Attack:
    """Return the attack of an evaluation, built with its options."""
    return build_attack(section.attack, section.options)


def _section_prompts(section: EvaluationSection, *, held_out: Sequence[Request], seed: int) -> Iterable[Prompt]:
    if section.prompts is not None:
        return read_records(Path(section.prompts), Prompt)
    return section_attack(section).craft(section_requests(section, held_out=held_out, seed=seed), seed=seed)


def _check_apart(prompts: Iterable[Prompt], section: EvaluationSection, recipe: Recipe) -> Iterator[Prompt]:
    """Refuse a file's prompt that would be taken for another evaluation's, whose judges and limit would apply to it."""
    others = {other.key for other in recipe.evaluate if other is not section}
    for prompt in prompts:
        if others & {(prompt.suite, prompt.attack, prompt.dataset), (prompt.suite, None, prompt.dataset)}:
            raise RecipeError(
                f"evaluate: {section.prompts}: prompt {prompt.id!r} ({prompt.cell}) reads as another evaluation's; "
                "give one of the two a `name`"
            )
        yield prompt


def check_unique(prompts: Iterable[Prompt]) -> None:
    """Refuse two prompts of one id: replies are told apart by it.

    Raises:
        DataError: names the id.
    """
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise DataError(
                f"prompts: expected ids that differ, got {prompt.id!r} twice; give each evaluation a `name`"
            )
        seen.add(prompt.id)


def store_prompts(path: Path, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Write the prompts once; a resumed run takes those it began with."""
    if not path.exists():
        write_records(path, prompts)
    return list(read_records(path, Prompt))


def is_asked(home: Path, prompts: Iterable[Prompt]) -> bool:
    """Whether a model was scored and has replied to all prompts, so that it need not be there any more.

    `prompts` are those that all models get; what searches found against this one beside them is in `prompts.jsonl`.
    """
    own_path, replies_path = home / "prompts.jsonl", home / "replies.jsonl"
    if not (home / "scores.json").exists() or not replies_path.exists():
        return False
    drop_torn_line(replies_path)
    own = read_records(own_path, Prompt) if own_path.exists() else prompts
    return {prompt.id for prompt in own} == {reply.prompt_id for reply in read_records(replies_path, Reply)}


def read_by_prompt(path: Path, kind: type[R], *, prompts: Iterable[Prompt]) -> dict[ReplyKey, R]:
    """The records of a file by prompt id and sample; a torn last line of a killed run is cut off.

    Raises:
        DataError: a record for no prompt, or two of one key.
    """
    known = {prompt.id for prompt in prompts}
    drop_torn_line(path)
    found: dict[ReplyKey, R] = {}
    for record in read_records(path, kind) if path.exists() else ():
        if record.prompt_id not in known or record.key in found:
            what = "twice" if record.key in found else "which no prompt has"
            raise DataError(f"{path}: got prompt id {record.prompt_id!r} {what}; the file belongs to other prompts")
        found[record.key] = record
    return found


def reply_all(
    engine: Engine,
    prompts: Sequence[Prompt],
    *,
    path: Path,
    max_new_tokens: Mapping[str, int],
    what: str = "replies",
    display: Display = Display(),
) -> list[Reply]:
    """Answer the prompts that have no reply in the file yet; each reply is written as soon as it is known.

    Args:
        engine: The model.
        prompts: All prompts.
        path: Where replies are kept.
        max_new_tokens: The limit of each prompt, by id.
        what: Named beside the progress bar.
        display: Where progress is shown.
    """
    done = read_by_prompt(path, Reply, prompts=prompts)
    todo = [prompt for prompt in prompts if (prompt.id, 0) not in done]
    limits = sorted({max_new_tokens[prompt.id] for prompt in todo})
    with Appender(path) as file, display.progress.task(what, total=len(prompts)) as task:
        task.update(len(done))
        for limit in limits:
            same = [prompt for prompt in todo if max_new_tokens[prompt.id] == limit]
            for reply in engine.generate(same, max_new_tokens=limit):
                file.add(reply)
                done[reply.key] = reply
                task.update(len(done))
    missing = [prompt.id for prompt in prompts if (prompt.id, 0) not in done]
    if missing:
        raise DataError(f"{path}: expected a reply to every prompt, {len(missing)} are missing ({missing[0]!r} …)")
    return [done[prompt.id, 0] for prompt in prompts]


def judge_all(
    judge: Judge, prompts: Sequence[Prompt], replies: Sequence[Reply], *, path: Path | None = None
) -> list[Verdict]:
    """One verdict a reply, in order, kept in the file where one is given."""
    done = {} if path is None else read_by_prompt(path, Verdict, prompts=prompts)
    cases = [Case(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
    new = list(judge.judge(case for case in cases if case.reply.key not in done))
    done |= {verdict.key: verdict for verdict in new}
    verdicts = [done[reply.key] for reply in replies]
    if path is not None and new:
        write_records(path, verdicts)
    return verdicts
