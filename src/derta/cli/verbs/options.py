"""Options shared by several commands, and parsing of KEY=VALUE options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from derta.errors import RecipeError

if TYPE_CHECKING:
    from derta.config import EngineConfig, Recipe

Out = Annotated[Path, typer.Option("--out", "-o", help="Output path.")]
OptionalOut = Annotated[Path | None, typer.Option("--out", "-o", help="Output path; by default nothing is saved.")]
Redact = Annotated[
    bool, typer.Option("--redact", help="Leave out texts of attacks, and replies that a judge calls harmful.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
Seed = Annotated[int, typer.Option("--seed", help="Random seed.")]
Settings = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe.")]
Env = Annotated[
    list[str],
    typer.Option("--env", metavar="NAME", help="Environment variable that the recipe may use, besides DERTA_*."),
]
AllowEndpoint = Annotated[
    list[str], typer.Option(metavar="HOST", help="Server that the recipe may use and send an API key to.")
]
Prompts = Annotated[
    Path | None, typer.Option("--prompts", help="Prompts of a run (default: its own), or requests of other replies.")
]
EngineOption = Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Engine setting, such as dtype=float32.")]

JudgeName = Annotated[
    str,
    typer.Option(
        "--judge",
        help="refusal, harm, gsm8k, mmlu, exact or steps; with --judge-model: guideline, strongreject, harmbench or "
        "llama_guard_3.",
    ),
]
JudgePath = Annotated[str | None, typer.Option("--judge-model", help="Model that the judge prompts.")]
OptionalJudge = Annotated[
    str | None,
    typer.Option(
        "--judge", help="Judge of the replies, as for derta calibrate; of a run: by default its own verdicts."
    ),
]
EngineName = Annotated[str, typer.Option(help="Engine of this model: hf, vllm or api.")]


def names(text: str) -> tuple[str, ...]:
    """Return the names in a text with commas between them.

    >>> names("derta, vanilla"), names("")
    (('derta', 'vanilla'), ())
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


def engine_config(
    model: str | None, engine: str, settings: list[str], *, option: str = "--engine-option"
) -> EngineConfig | None:
    """Build the engine configuration of a model option such as `--judge-model`; None without a model.

    Raises:
        RecipeError: an engine or a setting is given without a model.
    """
    if model is None:
        if settings or engine != "hf":
            raise RecipeError(f"{option}: expected a model for the engine, got none; add it or remove the option")
        return None
    from derta.config import EngineConfig

    return EngineConfig(model=model, engine=engine, settings=pairs(settings, option=option))


def read_recipe(path: Path, settings: list[str], env: list[str]) -> Recipe:
    """Load a recipe, apply the overrides of `--set`, and allow the variables of `--env`."""
    from derta.config import load_recipe

    return load_recipe(path, overrides=pairs(settings, option="--set"), env=env)


def refusal_words(words: list[str], *, judges: Sequence[str | None], path: Path) -> tuple[str, ...]:
    """Return the words of `--refusal-word`; without any those of the run that the path is in, or the paper's.

    Raises:
        RecipeError: there are words, and no judge reads them.
    """
    from derta.pipeline.run_paths import words_of_run

    if words and "refusal" not in judges:
        raise RecipeError("--refusal-word: expected the judge refusal, which reads it; remove the option")
    return tuple(words) or words_of_run(path)


def refuse_for_a_run(path: Path, values: Mapping[str, object]) -> None:
    """Refuse options that apply to one file of replies only.

    Raises:
        RecipeError: one of them has a value.
    """
    if given := next((option for option, value in values.items() if value), None):
        raise RecipeError(f"{given}: expected a file of replies or one model's folder with it, got the run {path}")


def number_or_path(text: str | None) -> float | str | None:
    """Return the number that a text is, or the text, which is a path."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def pairs(texts: list[str], *, option: str) -> dict[str, Any]:
    """Parse KEY=VALUE options into a dict; values are parsed as YAML.

    Raises:
        RecipeError: a text is not KEY=VALUE, or its value is not valid YAML.
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RecipeError(f"{option}: expected KEY=VALUE, got {text!r}")
        values[key] = _parse_value(value, option=option)
    return values


def _parse_value(text: str, *, option: str) -> Any:
    from derta.config import parse_yaml

    try:
        return parse_yaml(text)
    except ValueError as error:
        raise RecipeError(f"{option}: expected a YAML value, got {text!r}; quote it") from error
