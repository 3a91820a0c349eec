"""`derta fine-tune`: one model on disk is attacked by fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from derta.config import FineTuningPace, Recipe, allowed_fields, merge, parse_recipe
from derta.errors import ModelError, RecipeError
from derta.pipeline.data import evaluated_texts, input_files
from derta.pipeline.fine_tuning import (
    COST,
    KEPT,
    FineTuningAttack,
    fine_tune,
    fine_tuning_attacks,
    read_attack_data,
    told_cost,
)
from derta.protocols import Display
from derta.run_folder import check_new_model, record_origin


def fine_tune_folder(
    model: str,
    *,
    adapter: Path | None,
    helpful: Sequence[Path],
    harmful: Sequence[Path],
    exclude: Sequence[Path],
    steps: int | None,
    settings: Mapping[str, Any],
    seed: int,
    out: Path,
    display: Display = Display(),
) -> str:
    """Fine-tune a model, or an adapter on it, on files of data; `settings` are dotted keys of pace, train and model.

    Raises:
        RecipeError: no data, data of both kinds, or a setting that cannot be, or that the attack would not heed.
        ModelError: no such model or adapter.
        RunError: `out` is there, or checkpoints of another attack are.
    """
    check_new_model(out)
    if bool(helpful) == bool(harmful):
        raise RecipeError(f"fine-tune: expected --helpful or --harmful FILE, got {'both' if helpful else 'neither'}")
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"{adapter}: expected a folder with an adapter, found none; check the path")
    given = read_settings(settings, adapted=adapter is not None)
    section = {"name": "attack", "steps": steps, "pace": given.pop("pace")}
    section |= {"helpful": _sources(helpful), "harmful": _sources(harmful)}
    data = {"triples": [], "helpful": [], "exclude": _sources(exclude)}
    values = {"title": "fine-tune", "data": data, "fine_tuning_attacks": [section], **given}
    recipe = parse_recipe(merge({"model": {"path": model}}, values), where="fine-tune")
    (attack,) = fine_tuning_attacks(recipe)
    return _attack(
        recipe, attack, start=Path(model) if adapter is None else adapter, seed=seed, out=out, display=display
    )


def _attack(recipe: Recipe, attack: FineTuningAttack, *, start: Path, seed: int, out: Path, display: Display) -> str:
    data = read_attack_data(recipe, attack.section, asked=evaluated_texts(recipe))
    display.logger.info(data.note)
    made_of = recipe.model_dump(mode="json") | {"start": str(start), "seed": seed}
    with record_origin(out, recipe=made_of, inputs=input_files(recipe)):
        cost_path = out / COST
        fine_tune(
            recipe,
            attack,
            data=data,
            start=start,
            seed=seed,
            out=out,
            cost_path=cost_path,
            what=out.name,
            display=display,
        )
        return told_cost(cost_path)


def read_settings(settings: Mapping[str, Any], *, adapted: bool) -> dict[str, Any]:
    """Dotted keys as the sections pace, train and model; where an adapter is tuned on, `train` has `lora`.

    Raises:
        RecipeError: a key of another section, or one that the attack would not heed.
    """
    given: Any = {"pace": {}, "train": {}, "model": {}}
    for key, value in settings.items():
        first, *parts = key.split(".")
        if first not in given:
            raise RecipeError(f"--set: expected a key of pace, train or model, got {key!r}")
        given = merge(given, {first: reduce(lambda inner, part: {part: inner}, reversed(parts), value)})
    _check_heeded(given, adapted=adapted)
    return merge({"train": {"lora": {}}}, given) if adapted else given


def _check_heeded(given: dict[str, Any], *, adapted: bool) -> None:
    unheeded = set(allowed_fields()) - {*KEPT, "per_device_train_batch_size"}
    for name in sorted(_keys(given["train"]) & unheeded):
        known = {"max_steps": "give --steps"} | {key: f"set pace.{key}" for key in FineTuningPace.model_fields}
        instead = known.get(name, "leave it out")
        raise RecipeError(f"--set train.{name}: expected a key that a fine-tuning attack heeds; {instead}")
    if "path" in _keys(given["model"]):
        raise RecipeError("--set model.path: expected none, because MODEL is the path; leave it out")
    if adapted and "lora" in _keys(given["train"]) and _keys(given["train"]["lora"]) != {"load_in_4bit"}:
        raise RecipeError(
            "--set train.lora: expected load_in_4bit alone beside --adapter, whose own rank and modules are tuned on; "
            "leave the rest out"
        )


def _keys(value: Any) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


def _sources(paths: Sequence[Path]) -> list[dict[str, str]]:
    return [{"path": str(path)} for path in paths]
