"""Options that several verbs share, and how their texts are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from derta.errors import RecipeError

if TYPE_CHECKING:
    from derta.config import EngineConfig, Recipe

Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]
OptionalOut = Annotated[Path | None, typer.Option("--out", "-o", help="Where to write; not kept if it is left out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn.")]
Settings = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the recipe.")]
Prompts = Annotated[Path | None, typer.Option("--prompts", help="The prompts of our replies, if not beside them.")]
EngineOption = Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="A setting of its engine, such as dtype.")]

JudgeName = Annotated[
    str,
    typer.Option(
        "--judge",
        help="refusal, harm, gsm8k, mmlu, exact, steps; or with --judge-model: guideline, strongreject, harmbench, "
        "llama_guard_3.",
    ),
]
JudgePath = Annotated[str | None, typer.Option("--judge-model", help="The model that the judge asks.")]
JudgeEngine = Annotated[str, typer.Option("--engine", help="What runs the judge's model.")]


def engine_config(
    model: str | None, engine: str, settings: list[str], *, option: str = "--engine-option"
) -> EngineConfig | None:
    """Return the model that `--judge-model` or the like names, in its engine; None if none is named.

    Raises:
        RecipeError: no model is named, but an engine or a setting is.
    """
    if model is None:
        if settings or engine != "hf":
            raise RecipeError(
                f"{option}: expected a model that the engine is for, got none; name the model, or leave it out"
            )
        return None
    from derta.config import EngineConfig

    return EngineConfig(model=model, engine=engine, settings=pairs(settings, option=option))


def read_recipe(path: Path, settings: list[str]) -> Recipe:
    """Read a recipe, with the values of `--set` in place of its own."""
    from derta.config import load_recipe

    return load_recipe(path, overrides=pairs(settings, option="--set"))


def pairs(texts: list[str], *, option: str) -> dict[str, Any]:
    """Read KEY=VALUE texts; values are YAML.

    Raises:
        RecipeError: names the option and the text.
    """
    read: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RecipeError(f"{option}: expected KEY=VALUE, got {text!r}")
        read[key] = _read_value(value, option=option)
    return read


def _read_value(text: str, *, option: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{option}: expected a YAML value, got {text!r}; quote it") from error
