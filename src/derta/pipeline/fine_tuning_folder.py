"""`derta fine-tune`: a fine-tuning attack on one model in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from derta.config import FineTuningPace, Recipe, allowed_fields, merge, parse_recipe
from derta.errors import ModelError, RecipeError
from derta.pipeline.data import evaluated_requests, hub_base, input_files
from derta.pipeline.fine_tuning import (
    COST_FILE,
    INHERITED_SETTINGS,
    FineTuningAttack,
    fine_tune,
    fine_tuning_attacks,
    format_training_cost,
    read_attack_data,
)
from derta.protocols import Display
from derta.provenance import model_files
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
    """Fine-tune a model, or an adapter on it, on data files, and return its cost as text.

    `settings` are dotted keys of pace, train and model.

    Raises:
        RecipeError: no data, data of both kinds, or a setting that is not valid or not supported.
        ModelError: the model or adapter does not exist.
        RunError: `out` exists, or its checkpoints belong to another attack.
    """
    check_new_model(out)
    if bool(helpful) == bool(harmful):
        raise RecipeError(f"fine-tune: expected --helpful or --harmful FILE, got {'both' if helpful else 'neither'}")
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"{adapter}: expected a folder with an adapter, found none; check the path")
    sections = read_settings(settings, with_adapter=adapter is not None)
    section = {"name": "attack", "steps": steps, "pace": sections.pop("pace")}
    section |= {"helpful": _sources(helpful), "harmful": _sources(harmful)}
    data = {"triples": [], "helpful": [], "exclude": _sources(exclude)}
    values = {"title": "fine-tune", "data": data, "fine_tuning_attacks": [section], **sections}
    recipe = parse_recipe(merge({"model": {"path": model}}, values), where="fine-tune")
    (attack,) = fine_tuning_attacks(recipe)
    return _attack(
        recipe, attack, init_from=Path(model) if adapter is None else adapter, seed=seed, out=out, display=display
    )


def _attack(
    recipe: Recipe, attack: FineTuningAttack, *, init_from: Path, seed: int, out: Path, display: Display
) -> str:
    data = read_attack_data(recipe, attack.section, evaluated=evaluated_requests(recipe))
    display.logger.info(data.note)
    origin = recipe.model_dump(mode="json") | {"start": str(init_from), "seed": seed} | hub_base(recipe)
    with record_origin(out, recipe=origin, inputs=[*input_files(recipe), *model_files(init_from)]):
        cost_path = out / COST_FILE
        fine_tune(
            recipe,
            attack,
            data=data,
            init_from=init_from,
            seed=seed,
            out=out,
            cost_path=cost_path,
            description=out.name,
            display=display,
        )
        return format_training_cost(cost_path)


def read_settings(settings: Mapping[str, Any], *, with_adapter: bool) -> dict[str, Any]:
    """Parse dotted keys into the sections pace, train and model; for an adapter, `train` gets an empty `lora`.

    Raises:
        RecipeError: a key of another section, or one that the attack does not support.
    """
    sections: Any = {"pace": {}, "train": {}, "model": {}}
    for key, value in settings.items():
        first, *parts = key.split(".")
        if first not in sections:
            raise RecipeError(f"--set: expected a key of pace, train or model, got {key!r}")
        sections = merge(sections, {first: reduce(lambda inner, part: {part: inner}, reversed(parts), value)})
    _check_supported(sections, with_adapter=with_adapter)
    return merge({"train": {"lora": {}}}, sections) if with_adapter else sections


def _check_supported(sections: dict[str, Any], *, with_adapter: bool) -> None:
    unsupported = set(allowed_fields()) - {*INHERITED_SETTINGS, "per_device_train_batch_size"}
    for name in sorted(_keys(sections["train"]) & unsupported):
        advice = {"max_steps": "give --steps"} | {key: f"set pace.{key}" for key in FineTuningPace.model_fields}
        instead = advice.get(name, "leave it out")
        raise RecipeError(f"--set train.{name}: expected a key that a fine-tuning attack supports; {instead}")
    if "path" in _keys(sections["model"]):
        raise RecipeError("--set model.path: expected no such key, because MODEL is the path; remove it")
    if with_adapter and "lora" in _keys(sections["train"]) and _keys(sections["train"]["lora"]) != {"load_in_4bit"}:
        raise RecipeError(
            "--set train.lora: expected only load_in_4bit with --adapter, which keeps its rank and modules; "
            "remove the other keys"
        )


def _keys(value: Any) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


def _sources(paths: Sequence[Path]) -> list[dict[str, str]]:
    return [{"path": str(path)} for path in paths]
