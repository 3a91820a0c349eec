"""Evaluations of a recipe: prompts, token limits, judges, and missing verdicts."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from derta.attacks.prompts import as_suite
from derta.config import EvaluationSection, JudgeConfig, Recipe, SectionKey
from derta.errors import RecipeError
from derta.files import read_records
from derta.judges import judge_cases
from derta.pipeline.judge import expected_verdicts
from derta.pipeline.likelihoods import read_scores
from derta.pipeline.registry import Registry
from derta.pipeline.request_sources import section_requests
from derta.pipeline.resuming import Expected, check_unique, judge_missing, read_keyed, supersede
from derta.protocols import Case, Display, Judge
from derta.records import Prompt, Reply, ReplyKey, Request, Verdict
from derta.sampling import Sampling


def craft_prompts(
    recipe: Recipe, *, held_out: Sequence[Request], seed: int, registry: Registry = Registry()
) -> list[Prompt]:
    """Return the prompts of a recipe's evaluations, except those of search attacks, which differ between models."""
    prompts: list[Prompt] = []
    seen: set[SectionKey] = set()
    for section in recipe.evaluate:
        if section.key in seen:
            what = f"{section.suite} {section.attack}" if section.prompts is None else "prompts"
            raise RecipeError(f"evaluate: got two sections of {what}; give each a `name`")
        seen.add(section.key)
        if section.prompts is None and registry.attack(section).searches:
            continue
        crafted = _section_prompts(section, recipe, held_out=held_out, seed=seed, registry=registry)
        if section.name is not None:
            crafted = as_suite(crafted, suite=section.suite, dataset=section.name)
        prompts += crafted if section.prompts is None else _check_unambiguous(crafted, section, recipe)
    check_unique(prompts)
    return prompts


def _section_prompts(
    section: EvaluationSection, recipe: Recipe, *, held_out: Sequence[Request], seed: int, registry: Registry
) -> Iterable[Prompt]:
    if section.prompts is not None:
        return read_records(Path(section.prompts), Prompt)
    requests = section_requests(section, held_out=held_out, seed=seed)
    attack = registry.attack(section, refusal_words=recipe.model.refusal_words)
    return attack.craft(requests, seed=seed)


def _check_unambiguous(prompts: Iterable[Prompt], section: EvaluationSection, recipe: Recipe) -> Iterator[Prompt]:
    """Yield a file's prompts.

    Raises:
        RecipeError: a prompt has the key of another evaluation, whose judges and token limit would apply to it.
    """
    others = {other.key for other in recipe.evaluate if other is not section}
    for prompt in prompts:
        if others & set(section_keys(prompt)[:2]):
            raise RecipeError(
                f"evaluate: {section.prompts}: prompt {prompt.id!r} ({prompt.cell}) matches another evaluation; "
                "give one of the two a `name`"
            )
        yield prompt


def section_keys(prompt: Prompt) -> tuple[SectionKey, ...]:
    """Return the keys of a prompt's possible evaluations; the first one that the recipe has applies."""
    return (prompt.suite, prompt.attack, prompt.dataset), (prompt.suite, None, prompt.dataset), (None, None, None)


def token_limits(recipe: Recipe, prompts: Iterable[Prompt]) -> dict[str, int]:
    """Return the maximum number of new tokens of each prompt, by prompt id."""
    limits = {section.key: section.max_new_tokens or recipe.generate.max_new_tokens for section in recipe.evaluate}
    return {prompt.id: next(limits[key] for key in section_keys(prompt) if key in limits) for prompt in prompts}


def samplings(recipe: Recipe, prompts: Iterable[Prompt]) -> dict[str, Sampling]:
    """Return how the replies to each prompt are sampled, by prompt id."""
    by_key = {section.key: section.sampling(recipe.generate) for section in recipe.evaluate}
    return {prompt.id: next(by_key[key] for key in section_keys(prompt) if key in by_key) for prompt in prompts}


def sample_counts(recipe: Recipe) -> dict[SectionKey, int]:
    """Return the number of samples for each prompt of an evaluation, by its key."""
    return {section.key: section.sampling(recipe.generate).num_samples for section in recipe.evaluate}


def reply_keys(prompts: Iterable[Prompt], samples: Mapping[SectionKey, int]) -> list[ReplyKey]:
    """Return the keys of the replies that prompts have: prompt by prompt, in the order of the samples.

    Args:
        prompts: The prompts.
        samples: The number of samples of each evaluation; 1 for others.
    """
    counts = ((prompt.id, next((samples[k] for k in section_keys(prompt) if k in samples), 1)) for prompt in prompts)
    return [(prompt_id, number) for prompt_id, count in counts for number in range(count)]


def recorded_weights(home: Path) -> dict[str, str]:
    """Return the part of a producer that identifies the weights of the model that gave the replies in a folder.

    It replaces that of a model whose weights were deleted after its evaluation. Empty without replies.
    """
    path = home / "replies.jsonl"
    replies = read_records(path, Reply, complete_lines=True) if path.exists() else iter(())
    producer = next((reply.producer for reply in replies if reply.producer), {})
    key = "adapter" if "adapter" in producer else "model"
    return {key: producer[key]} if key in producer else {}


def is_current(home: Path, expected: Mapping[ReplyKey, Expected], *, scores: str) -> bool:
    """Return whether a model's replies and scores are all there and are those that it would give today.

    Args:
        home: The model's folder in a run.
        expected: The provenance of each reply.
        scores: The provenance of its scores (`ScoredData.provenance`).
    """
    path = home / "replies.jsonl"
    if not (home / "scores.json").exists() or not path.exists() or read_scores(home).provenance != scores:
        return False
    replies = {reply.key: reply for reply in read_records(path, Reply, complete_lines=True)}
    return replies.keys() == expected.keys() and all(expected[key].fault(one) is None for key, one in replies.items())


def is_complete(home: Path, prompts: Iterable[Prompt], samples: Mapping[SectionKey, int] | None = None) -> bool:
    """Return whether a model's scores and all its replies exist, so that its weights are not needed any more.

    `prompts` are those of all models; a model with search attacks has its complete list in `prompts.jsonl`. `samples`
    is the number of samples of each evaluation (`sample_counts`); None: 1.
    """
    model_prompts_path, replies_path = home / "prompts.jsonl", home / "replies.jsonl"
    if not (home / "scores.json").exists() or not replies_path.exists():
        return False
    expected = read_records(model_prompts_path, Prompt) if model_prompts_path.exists() else prompts
    replies = read_records(replies_path, Reply, complete_lines=True)
    return set(reply_keys(expected, samples or {})) == {reply.key for reply in replies}


def prompts_path(folder: Path, home: Path) -> Path:
    """Return the path of a model's prompts: in its folder if there are search attacks, else in the run's folder."""
    model_prompts_path = home / "prompts.jsonl"
    return model_prompts_path if model_prompts_path.exists() else folder / "prompts.jsonl"


def recipe_judges(recipe: Recipe, registry: Registry = Registry()) -> dict[str, Judge]:
    """Return the judges of a recipe's evaluations by name; a judge's model is loaded on first use.

    Raises:
        DataError: a judge is unknown, or lacks its model.
        RecipeError: a judge has two models.
        EngineError: a judge's engine has no such setting.
    """
    named: dict[str, JudgeConfig] = {}
    for entry in (entry for section in recipe.evaluate for entry in section.judges):
        if named.setdefault(entry.name, entry) != entry:
            raise RecipeError(f"judges: expected one model for {entry.name!r}, got two; give each section the same")
    words = recipe.model.refusal_words
    return {name: registry.judge(entry, refusal_words=words) for name, entry in named.items()}


def judge_models(
    judge: Judge,
    homes: Mapping[str, Path],
    *,
    folder: Path,
    judges: Mapping[SectionKey, Sequence[str]],
    display: Display = Display(),
) -> None:
    """Judge the replies of all models of a run, where the prompt's evaluation names the judge.

    Args:
        judge: The judge; if it uses a model, that is loaded once, for the first missing verdict.
        homes: The models' folders, by their name in the progress output.
        folder: The run's folder.
        judges: The judges of each evaluation.
        display: Shows progress.
    """
    for name, home in homes.items():
        prompts = list(read_records(prompts_path(folder, home), Prompt))
        replies = read_keyed(home / "replies.jsonl", Reply, prompts=prompts)
        judged = {prompt.id: prompt for prompt in prompts if judge.name in judges_of(prompt, judges)}
        order = {name: place for place, name in enumerate(judged)}
        keys = sorted((key for key in replies if key[0] in judged), key=lambda key: (order[key[0]], key[1]))
        cases = {key: Case(judged[key[0]], replies[key]) for key in keys}
        path = home / f"verdicts.{judge.name}.jsonl"
        expected = expected_verdicts(judge, cases.values())
        if old := supersede(path, Verdict, expected):
            display.logger.info("%s: %d verdicts on other replies or by another judge are superseded", path, old)
        judge_missing(
            path,
            Verdict,
            expected=expected,
            judge=judge.name,
            judge_replies=lambda missing, cases=cases: judge_cases(
                judge, (case for key, case in cases.items() if key in missing)
            ),
            description=f"{name}: {judge.name}",
            display=display,
        )


def section_of(prompt: Prompt, sections: Container[SectionKey]) -> SectionKey | None:
    """Return the key of a prompt's evaluation; None if it has none."""
    return next((key for key in section_keys(prompt) if key in sections), None)


def judges_of(prompt: Prompt, judges: Mapping[SectionKey, Sequence[str]]) -> Sequence[str]:
    """Return the names of the judges of a prompt's evaluation."""
    key = section_of(prompt, judges)
    return () if key is None else judges[key]


def sampling_notes(recipe: Recipe) -> list[str]:
    """Return a note for the report on the evaluations with sampled replies; none if all are greedy."""
    named: dict[Sampling, list[str]] = {}
    for section in recipe.evaluate:
        sampling = section.sampling(recipe.generate)
        if not sampling.is_greedy:
            named.setdefault(sampling, []).append(section.name or section.prompts or section.attack)
    return [
        f"Replies of {', '.join(dict.fromkeys(names))} are sampled: {sampling.num_samples} for each prompt, at "
        f"temperature {sampling.temperature:g} and top_p {sampling.top_p:g}, with seed {sampling.seed}."
        for sampling, names in named.items()
    ]
