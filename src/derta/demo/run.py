"""The demo (`derta demo`): a world and a base model per seed, a run of the same recipe on each, and one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from derta.demo.making import write_making
from derta.demo.model import pretrain, pretraining_config, write_untrained
from derta.demo.recipe import DemoOptions, read_recipe, write_data
from derta.demo.world import build_world
from derta.errors import RunError
from derta.files import write_text
from derta.pipeline.report import report
from derta.pipeline.run import run
from derta.pipeline.training import training_progress
from derta.protocols import Display
from derta.results import Summary

RUN = "run"


def run_demo(
    folder: Path,
    *,
    seeds: Sequence[int] = (0,),
    options: DemoOptions = DemoOptions(),
    overrides: Mapping[str, Any] | None = None,
    display: Display = Display(),
) -> Summary:
    """Run the demo for each seed, and return the summary of all runs.

    For each seed, write a world, a base model and a recipe, and run the recipe; then write one report of all runs.
    `folder/seedN/recipe.yaml` is a normal recipe for `derta run`. Completed work is not repeated. Several processes can
    run different seeds in one folder; `derta report` then pools them.

    Args:
        folder: The output folder.
        seeds: The seeds; each has its own world and base model.
        options: The user's choices.
        overrides: Sections that replace those of the demo's recipe, and `pretraining_steps`.
        display: Progress display and logger.

    Raises:
        RunError: a seed's folder contains another recipe.
    """
    runs: list[Path] = []
    for seed in seeds:
        home = folder / f"seed{seed}"
        recipe_path = write_seed(home, seed=seed, options=options, overrides=overrides or {}, display=display)
        run(recipe_path, out=home / RUN, display=display)
        runs.append(home / RUN)
    return report(runs, out=folder, title="derta demo", display=display)


def write_example(home: Path, *, methods: Sequence[str] = ("base",)) -> Path:
    """Write a small recipe that runs in a second, with its data and an untrained model, and return its path.

    For examples and tests. Its results are meaningless, because the model is untrained.
    """
    world = build_world(num_allowed=2, num_tuned=2, num_held_out=2, num_tuned_twins=1)
    write_data(home, world, seed=0)
    write_untrained(world, home / "base", seed=0)
    train = {"max_steps": 1, "global_batch_size": 4, "per_device_train_batch_size": 4, "max_length": 128}
    overrides = {
        "methods": list(methods),
        "baseline": methods[0],
        "train": train,
        "method_settings": {},
        "generate": {"max_new_tokens": 2, "dtype": "float32"},
        "profile_answers": 0,
    }
    recipe = read_recipe(home, world, seed=0, overrides=overrides)
    recipe["data"] |= {"num_triples": 2, "num_helpful": 4}
    write_text(home / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False))
    return home / "recipe.yaml"


def write_seed(home: Path, *, seed: int, options: DemoOptions, overrides: Mapping[str, Any], display: Display) -> Path:
    """Write one seed's data, base model and recipe, and return the path of the recipe."""
    world = build_world(seed=seed)
    recipe_path = home / "recipe.yaml"
    changes = {name: value for name, value in overrides.items() if name != "pretraining_steps"}
    recipe = read_recipe(home, world, seed=seed, options=options, overrides=changes, display=display)
    text = yaml.safe_dump(recipe, sort_keys=False, width=120)
    if recipe_path.exists() and recipe_path.read_text(encoding="utf-8") != text:
        raise RunError(
            f"{recipe_path}: expected the demo's recipe, got another; run it with `derta run`, or choose another --out"
        )
    write_data(home, world, seed=seed, options=options)
    write_making(home, world)
    config = pretraining_config(seed=seed, **_steps(overrides))
    with training_progress(display, f"seed {seed}: pretraining") as callback:
        pretrain(world, home / "base", config=config, callbacks=[callback])
    if not recipe_path.exists():
        write_text(recipe_path, text)
    return recipe_path


def _steps(overrides: Mapping[str, Any]) -> dict[str, int]:
    return {"max_steps": overrides["pretraining_steps"]} if "pretraining_steps" in overrides else {}
