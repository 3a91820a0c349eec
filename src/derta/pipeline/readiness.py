"""Checks, before any training, of what a run needs only after it: prompts, judges, attackers and their servers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from derta.chat import TemplateSupport, chat_format
from derta.config import EngineConfig, Recipe, SectionKey
from derta.data.preparation import PreparedData
from derta.engines import load_engine
from derta.errors import EngineError, ModelError, install_advice
from derta.files import read_records
from derta.judges.rubrics import RUBRICS
from derta.pipeline.evaluate import is_complete, judges_of, prompts_path, reply_keys, sample_counts, token_limits
from derta.pipeline.likelihoods import direct_prompt, scored_data
from derta.pipeline.model_checks import check_prompts, check_scored
from derta.pipeline.registry import Registry
from derta.pipeline.request_sources import section_requests
from derta.records import Message, Prompt, Verdict


def check_evaluation(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    *,
    prepared: PreparedData,
    folder: Path,
    homes: Sequence[Path],
    registry: Registry,
    judges: Mapping[SectionKey, Sequence[str]],
) -> None:
    """Validate the prompts, judges and attackers of the models whose replies or verdicts are not complete.

    Args:
        recipe: The recipe.
        prompts: The prompts of all models.
        prepared: The prepared data, with the held-out rows that likelihoods are measured on.
        folder: The run's folder.
        homes: The models' folders.
        registry: The caller's attacks and judges.
        judges: The names of the judges of each evaluation.

    Raises:
        ModelError: the chat template refuses a prompt, a prompt is too long, or a judge's model does not exist.
        EngineError: a server does not answer, or the package of an engine is missing.
    """
    samples = sample_counts(recipe)
    incomplete = not all(is_complete(home, prompts, samples) for home in homes)
    if incomplete:
        limits = token_limits(recipe, prompts)
        texts = scored_data(recipe, prepared).texts
        for asked in asked_recipes(recipe, registry):
            check_prompts(asked, prompts, new_tokens=limits)
            check_scored(asked, texts)
            _check_searched(asked, prepared, registry)
    left = {
        name
        for name in {name for names in judges.values() for name in names}
        if incomplete or _is_left(name, prompts, folder=folder, homes=homes, judges=judges, samples=samples)
    }
    for config, raw in _needed_models(recipe, left, incomplete=incomplete):
        check_model(config, raw=raw)


def asked_recipes(recipe: Recipe, registry: Registry) -> list[Recipe]:
    """Return a recipe once for each of its models with a chat template: its own, if a method uses it, and others."""
    names = dict.fromkeys(map(registry.weights_of, recipe.methods))
    own = [recipe] if any(name not in recipe.models for name in names) else []
    return [*own, *(recipe.asking(name) for name in names if name in recipe.models)]


def _check_searched(recipe: Recipe, prepared: PreparedData, registry: Registry) -> None:
    """Check the requests of search attacks, whose prompts are not known yet, and the templates of their attackers."""
    for section in recipe.evaluate:
        if section.prompts is None and (attack := registry.attack(section)).searches:
            if attack.needs_attacker and section.search.attacker is not None:
                _check_roles(section.search.attacker)
            requests = section_requests(section, held_out=prepared.held_out_requests, seed=recipe.seeds[0])
            prompts = [direct_prompt(request) for request in requests]
            limit = section.max_new_tokens or recipe.generate.max_new_tokens
            check_prompts(recipe, prompts, new_tokens=dict.fromkeys((one.id for one in prompts), limit))


def _check_roles(attacker: EngineConfig) -> None:
    """Check that the template of a local attacker takes a system message, which its instructions are."""
    if fault := system_fault(attacker):
        raise ModelError(f"attacker {attacker.model}: {fault}")


def system_fault(config: EngineConfig) -> str | None:
    """Return why the chat template of a local model does not take a system message; None if it does, or is a server's.

    Raises:
        ModelError: the model has no tokenizer or no chat template.
    """
    support = template_support(config)
    instructed = [Message(role="system", content="Hello."), Message(role="user", content="Hello.")]
    return None if support is None else support.fault(instructed)


def template_support(config: EngineConfig) -> TemplateSupport | None:
    """Return which conversations the chat template of a model supports; None if it is not loaded here from a folder.

    Raises:
        ModelError: the model has no tokenizer or no chat template.
    """
    if config.engine not in ("hf", "vllm"):
        return None
    from derta.loading import load_tokenizer

    names = ("template", "template_kwargs")
    settings = config.settings
    options = {name: settings[name] for name in names if name in settings}
    adapter = None if "tokenizer" in settings or "adapter" not in settings else str(settings["adapter"])
    chat = chat_format(load_tokenizer(str(settings.get("tokenizer", config.model)), adapter=adapter), **options)
    return TemplateSupport(chat)


def _is_left(
    name: str,
    prompts: Sequence[Prompt],
    *,
    folder: Path,
    homes: Sequence[Path],
    judges: Mapping[SectionKey, Sequence[str]],
    samples: Mapping[SectionKey, int],
) -> bool:
    """Return whether a judge lacks verdicts on replies."""
    for home in homes:
        path, own = home / f"verdicts.{name}.jsonl", prompts_path(folder, home)
        model_prompts = list(read_records(own, Prompt)) if own.parent == home else prompts
        judged = [prompt for prompt in model_prompts if name in judges_of(prompt, judges)]
        required = set(reply_keys(judged, samples))
        if required and not path.exists():
            return True
        if required:
            verdicts = read_records(path, Verdict, complete_lines=True)
            required -= {verdict.key for verdict in verdicts if not verdict.retry}
        if required:
            return True
    return False


def _needed_models(recipe: Recipe, judges: Collection[str], *, incomplete: bool) -> Iterator[tuple[EngineConfig, bool]]:
    """Yield the models of judges and attackers, and whether each completes raw text; equal ones once."""
    seen: list[tuple[EngineConfig, bool]] = []
    for section in recipe.evaluate:
        configs = [judge for judge in section.judges if judge.name in judges]
        if incomplete and section.search.judge_config is not None:
            configs.append(section.search.judge_config)
        models = [
            (judge.engine_config, judge.name in RUBRICS and RUBRICS[judge.name].mode == "raw") for judge in configs
        ]
        models.append((section.search.attacker if incomplete else None, False))
        for config, raw in models:
            if config is not None and (config, raw) not in seen:
                seen.append((config, raw))
                yield config, raw


def check_model(config: EngineConfig, *, raw: bool = False) -> None:
    """Validate that a judge's or an attacker's model can be used: its server answers, or its folder exists.

    Raises:
        EngineError: the server does not answer, or a package is missing.
        ModelError: the folder has no model.
    """
    if config.engine == "api":
        from derta.engines.openai_engine import ApiEngine
        from derta.engines.openai_probe import check_answers

        engine: Any = load_engine(config.model, engine="api", **config.settings)
        if isinstance(engine, ApiEngine):
            check_answers(engine, raw=raw)
        return
    if config.engine == "vllm" and find_spec("vllm") is None:
        raise EngineError(f"{config.model}: expected the package vllm, found none; {install_advice('vllm')}, or use hf")
    if config.engine in ("hf", "vllm"):
        from derta.loading import check_model_path

        check_model_path(config.model, needs="config.json")
