"""The demo (`derta demo`): a world and a base model per seed, a run of the same recipe on each, and one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from derta.demo import corpus
from derta.demo.model import pretrain, pretraining_config, write_untrained
from derta.demo.world import World, build_world
from derta.errors import RunError
from derta.files import write_records, write_text
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
    fine_tuning: bool = False,
    overrides: Mapping[str, Any] | None = None,
    display: Display = Display(),
) -> Summary:
    """Run the demo for each seed, and return the summary of all runs.

    For each seed, write a world, a base model and a recipe, and run the recipe; then write one report of all runs.
    `folder/seedN/recipe.yaml` is a normal recipe for `derta run`. Completed work is not repeated.

    Args:
        folder: The output folder.
        seeds: The seeds; each has its own world and base model.
        fine_tuning: Whether to attack each tuned model by fine-tuning too, on benign and on harmful data.
        overrides: Sections that replace those of the demo's recipe, and `pretraining_steps`.
        display: Progress display and logger.

    Raises:
        RunError: a seed's folder contains another recipe.
    """
    runs: list[Path] = []
    for seed in seeds:
        home = folder / f"seed{seed}"
        recipe_path = write_seed(home, seed=seed, fine_tuning=fine_tuning, overrides=overrides or {}, display=display)
        run(recipe_path, out=home / RUN, display=display)
        runs.append(home / RUN)
    return report(runs, out=folder, title="derta demo", display=display)


def write_example(home: Path, *, methods: Sequence[str] = ("base",)) -> Path:
    """Write a small recipe that runs in a second, with its data and an untrained model, and return its path.

    For examples and tests. Its results are meaningless, because the model is untrained.
    """
    world = build_world(num_allowed=2, num_tuned=2, num_held_out=2)
    write_data(home, world)
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
    recipe = read_recipe(home, seed=0, fine_tuning=False, overrides=overrides, display=Display())
    recipe["data"] |= {"num_triples": 2, "num_helpful": 4}
    write_text(home / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False))
    return home / "recipe.yaml"


def write_seed(home: Path, *, seed: int, fine_tuning: bool, overrides: Mapping[str, Any], display: Display) -> Path:
    """Write one seed's data, base model and recipe, and return the path of the recipe."""
    world = build_world(seed=seed)
    recipe_path = home / "recipe.yaml"
    recipe = read_recipe(home, seed=seed, fine_tuning=fine_tuning, overrides=overrides, display=display)
    text = yaml.safe_dump(recipe, sort_keys=False, width=120)
    if recipe_path.exists() and recipe_path.read_text(encoding="utf-8") != text:
        raise RunError(
            f"{recipe_path}: expected the demo's recipe, got another; run it with `derta run`, or choose another --out"
        )
    write_data(home, world)
    config = pretraining_config(seed=seed, max_steps=overrides.get("pretraining_steps", 500))
    with training_progress(display, f"seed {seed}: pretraining") as callback:
        pretrain(world, home / "base", config=config, callbacks=[callback])
    if not recipe_path.exists():
        write_text(recipe_path, text)
    return recipe_path


def write_data(home: Path, world: World) -> None:
    """Write the datasets of a world: training data, evaluation prompts, and requests for the refusal profile."""
    write_records(home / "triples.jsonl", corpus.triples(world))
    examples = corpus.helpful_examples(world)
    write_records(home / "examples.jsonl", [one for one in examples if one.text is None])
    write_records(home / "guides.jsonl", [one for one in examples if one.text is not None])
    write_records(home / "requests.jsonl", corpus.held_out_requests(world))
    write_records(home / "attacks.jsonl", corpus.attack_prompts(world))
    for task in corpus.BENIGN_TASKS:
        write_records(home / f"{task}.jsonl", corpus.task_prompts(world, task))
    write_records(home / "allowed.jsonl", corpus.helpful_prompts(world))


def read_recipe(
    home: Path, *, seed: int, fine_tuning: bool, overrides: Mapping[str, Any], display: Display
) -> dict[str, Any]:
    """Load the default recipe, and return it with the paths of one seed and the overrides."""
    recipe = _shipped("recipe.yaml") | {"seeds": [seed], "model": {"path": str(home / "base")}}
    recipe |= {name: value for name, value in overrides.items() if name != "pretraining_steps"}
    if find_spec("trl") is None and "dpo" in recipe["methods"]:
        display.logger.info("dpo is skipped: TRL is not installed; run `pip install 'derta[dpo]'`")
        recipe["methods"] = [method for method in recipe["methods"] if method != "dpo"]
    examples = [{"path": str(home / "examples.jsonl")}, {"path": str(home / "guides.jsonl"), "format": "text"}]
    triples = [{"path": str(home / "triples.jsonl")}]
    count = sum(1 for _ in corpus.helpful_examples(build_world(seed=seed)))
    recipe["data"] |= {"triples": triples, "helpful": examples, "num_helpful": count}
    recipe["evaluate"] = [
        {"prompts": str(home / "attacks.jsonl"), "judges": ["steps", "refusal"]},
        *(_section(home / f"{task}.jsonl", suite="over_refusal", name=task) for task in corpus.BENIGN_TASKS),
        _section(home / "allowed.jsonl", suite="helpfulness", name="allowed crafts") | {"decontaminate": False},
    ]
    recipe["profile_requests"] = {"path": str(home / "requests.jsonl")}
    if fine_tuning:
        benign, harmful = _shipped("fine_tuning.yaml")
        recipe["fine_tuning_attacks"] = [benign | {"helpful": examples}, harmful | {"harmful": triples}]
    return recipe


def _section(path: Path, *, suite: str, name: str) -> dict[str, Any]:
    return {"prompts": str(path), "suite": suite, "name": name, "judges": ["exact", "refusal"]}


def _shipped(name: str) -> Any:
    return yaml.safe_load((files("derta.demo") / "texts" / name).read_text(encoding="utf-8"))
