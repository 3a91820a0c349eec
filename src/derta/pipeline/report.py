"""Writing a run's report again from its files, without any model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from derta.config import parse_recipe
from derta.errors import RunError
from derta.files import read_records
from derta.pipeline.evaluate import is_asked
from derta.protocols import Display
from derta.records import Prompt
from derta.results import Summary


def write_again(folder: Path, *, display: Display = Display()) -> Summary:
    """Summarize and render a finished run's prompts, replies and verdicts.

    Raises:
        RunError: the folder is no run, or a stage of it is not finished.
    """
    manifest_path = folder / "manifest.json"
    if not manifest_path.exists():
        raise RunError(f"{folder}: expected a run's folder with a manifest.json, found none; check the path")
    try:
        recipe = json.loads(manifest_path.read_text(encoding="utf-8"))["recipe"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{manifest_path}: expected a run's manifest, got another file; check the path") from error
    if "demo" in recipe:
        from derta.demo.run import run_demo

        methods, attacks = recipe["methods"], recipe["demo"].get("fine_tuning", {})
        attacked = [f"{method}+{attack}" for attack in attacks for method in methods if method != "base"]
        _check_finished(folder, [*methods, *attacked], recipe["seeds"], prompts="prompts-seed{seed}.jsonl")
        return run_demo(
            folder=folder,
            seeds=tuple(recipe["seeds"]),
            methods=tuple(methods),
            fine_tuning=bool(attacks),
            display=display,
        )
    from derta.pipeline.fine_tuning import fine_tuning_attacks
    from derta.pipeline.run import run_recipe

    loaded = parse_recipe(recipe, where=str(manifest_path))
    attacked = [attack.place(method) for attack in fine_tuning_attacks(loaded) for method in loaded.methods]
    _check_finished(folder, [*loaded.methods, *attacked], loaded.seeds, prompts="prompts.jsonl")
    return run_recipe(loaded, folder=folder, display=display)


def _check_finished(folder: Path, methods: Sequence[str], seeds: Sequence[int], *, prompts: str) -> None:
    for method in methods:
        for seed in seeds:
            path = folder / prompts.format(seed=seed)
            if not path.exists() or not is_asked(folder / f"{method}-seed{seed}", read_records(path, Prompt)):
                raise RunError(f"{folder}: {method} seed {seed} is not finished; `derta run` goes on with it")
