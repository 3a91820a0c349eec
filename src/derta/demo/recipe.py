"""The recipe of a demo run: the shipped one, with the paths of a seed's files and the choices of the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from derta.demo import corpus
from derta.demo.families import NUM_ROTATIONS, holding_families, trained_families, untrained_families
from derta.demo.world import World, forbidden_kinds
from derta.errors import RecipeError, did_you_mean, install_advice
from derta.files import write_records
from derta.protocols import Display

TRAINED, UNTRAINED, HOLDING = "trained families", "untrained families", "families that hold forbidden text"
TWINS, ALLOWED = "allowed twins", "allowed crafts"
"""Names of the evaluations with benign prompts."""
_NOT_HOLDING = (
    "not trained: by the demo's policy the model need not repeat or translate forbidden text, so to refuse it is no "
    "over-refusal. They are in all tables, but in no mean; `derta demo --holding` trains and counts them."
)
ALL = "all"
"""Name of the study with the methods of every group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Choices of a demo run.

    Attributes:
        study: Group of methods in `texts/study.yaml` to train and to attack adaptively too, or `all`. None: the demo.
        methods: Methods to train, instead of all of the recipe's or the study's.
        rotation: Which half of the benign families is trained: 0 or 1. None: seeds alternate.
        holding: Whether families whose answers contain forbidden text are trained too, and count in the means of
            over-refusal (a policy).
        without: Kinds of forbidden crafts that are left out of training, and tested.
        fine_tuning: Whether to attack each tuned model by fine-tuning too, on benign and on harmful data.
    """

    study: str | None = None
    methods: tuple[str, ...] = ()
    rotation: int | None = None
    holding: bool = False
    without: tuple[str, ...] = ()
    fine_tuning: bool = False

    def rotation_of(self, seed: int) -> int:
        """Return the rotation of a seed.

        >>> DemoOptions().rotation_of(3), DemoOptions(rotation=0).rotation_of(3)
        (1, 0)
        """
        return seed % NUM_ROTATIONS if self.rotation is None else self.rotation


def check_options(options: DemoOptions) -> None:
    """Validate the names in the options.

    Raises:
        RecipeError: an unknown study, rotation or kind, or no kind is left for training.
    """
    groups, kinds = [*read_study()["groups"], ALL], forbidden_kinds()
    if options.study is not None and options.study not in groups:
        raise RecipeError(f"study: unknown study {options.study!r}; {did_you_mean(options.study, groups)}")
    if options.rotation is not None and not 0 <= options.rotation < NUM_ROTATIONS:
        raise RecipeError(f"rotation: expected 0 or 1, got {options.rotation}")
    for kind in options.without:
        if kind not in kinds:
            raise RecipeError(f"without: unknown kind {kind!r}; {did_you_mean(kind, kinds)}")
    if {*kinds} <= {*options.without}:
        raise RecipeError("without: expected a kind that is left for training, got all; leave one out of the list")


def write_data(home: Path, world: World, *, seed: int = 0, options: DemoOptions = DemoOptions()) -> None:
    """Write the datasets of a world: training data, evaluation prompts, and requests for adaptive attacks."""
    rotation = options.rotation_of(seed)
    write_records(home / "triples.jsonl", corpus.triples(world, without=options.without))
    examples = corpus.helpful_examples(world)
    write_records(home / "examples.jsonl", [one for one in examples if one.text is None])
    write_records(home / "guides.jsonl", [one for one in examples if one.text is not None])
    counter = corpus.counter_examples(world, rotation=rotation, holding=options.holding, without=options.without)
    write_records(home / "counter.jsonl", counter)
    write_records(home / "calibration.jsonl", corpus.calibration_examples(world, rotation=rotation))
    write_records(home / "requests.jsonl", corpus.held_out_requests(world))
    write_records(home / "attacks.jsonl", corpus.attack_prompts(world))
    write_records(home / "trained.jsonl", corpus.family_prompts(world, trained_families(rotation)))
    write_records(home / "untrained.jsonl", corpus.family_prompts(world, untrained_families(rotation)))
    write_records(home / "holding.jsonl", corpus.family_prompts(world, holding_families()))
    write_records(home / "twins.jsonl", corpus.twin_prompts(world))
    write_records(home / "allowed.jsonl", corpus.helpful_prompts(world))


def read_recipe(
    home: Path,
    world: World,
    *,
    seed: int,
    options: DemoOptions = DemoOptions(),
    overrides: Mapping[str, Any] | None = None,
    display: Display = Display(),
) -> dict[str, Any]:
    """Return the recipe of a seed: the shipped recipe with the seed's paths, the options and the overrides.

    Raises:
        RecipeError: the options have an unknown name, or name a method that the recipe does not have.
    """
    check_options(options)
    recipe, adaptive = _study_recipe(options.study)
    recipe |= {"seeds": [seed], "model": {"path": str(home / "base")}} | dict(overrides or {})
    recipe["methods"] = _chosen_methods(recipe["methods"], options, display)
    if recipe["baseline"] not in recipe["methods"]:
        recipe["baseline"] = recipe["methods"][0]
    recipe["method_settings"] = _used_settings(recipe["method_settings"], recipe["methods"])
    recipe["notes"] = [*recipe["notes"], *_option_notes(seed, options)]
    examples = [{"path": str(home / "examples.jsonl")}, {"path": str(home / "guides.jsonl"), "format": "text"}]
    triples = [{"path": str(home / "triples.jsonl")}]
    recipe["data"] |= {"triples": triples, "helpful": examples, "counter": [{"path": str(home / "counter.jsonl")}]}
    recipe["data"] |= {"num_helpful": len(corpus.helpful_examples(world))}
    if options.without:  # vanilla has twice as many triples
        recipe["data"]["num_triples"] = len(corpus.triples(world, without=options.without)) // 2
    recipe["evaluate"] = _evaluations(home, adaptive, holding=options.holding)
    if any("refusal_threshold" in values for values in recipe["method_settings"].values()):
        recipe["profile_examples"] = {"path": str(home / "calibration.jsonl")}
    recipe["profile_requests"] = {"path": str(home / "requests.jsonl")}
    if options.fine_tuning:
        benign, harmful = _shipped("fine_tuning.yaml")
        recipe["fine_tuning_attacks"] = [benign | {"helpful": examples}, harmful | {"harmful": triples}]
    return recipe


def _study_recipe(study: str | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the shipped recipe, with the methods and settings of a study, and the study's adaptive attacks."""
    recipe = _shipped("recipe.yaml")
    if study is None:
        return recipe, []
    values = read_study()
    groups, adaptive = values.pop("groups"), values.pop("adaptive")
    chosen = [*groups.values()] if study == ALL else [groups[study]]
    methods = list(dict.fromkeys(method for group in chosen for method in group))
    return recipe | values | {"methods": methods, "notes": recipe["notes"] + values["notes"]}, adaptive


def _evaluations(home: Path, adaptive: Iterable[Mapping[str, Any]], *, holding: bool) -> list[dict[str, Any]]:
    requests = home / "requests.jsonl"
    return [
        {"prompts": str(home / "attacks.jsonl"), "judges": ["steps", "refusal"]},
        *({**attack, "requests": {"path": str(requests)}, "judges": ["steps", "refusal"]} for attack in adaptive),
        _section(home / "trained.jsonl", suite="over_refusal", name=TRAINED),
        _section(home / "untrained.jsonl", suite="over_refusal", name=UNTRAINED),
        _section(home / "holding.jsonl", suite="over_refusal", name=HOLDING) | {"in_means": holding},
        _section(home / "twins.jsonl", suite="over_refusal", name=TWINS),
        _section(home / "allowed.jsonl", suite="helpfulness", name=ALLOWED) | {"decontaminate": False},
    ]


def _chosen_methods(listed: list[str], options: DemoOptions, display: Display) -> list[str]:
    """Return the methods of a recipe that the options choose, in the order of the recipe."""
    for method in options.methods:
        if method not in listed:
            raise RecipeError(f"methods: unknown method {method!r}; {did_you_mean(method, listed)}")
    chosen = [method for method in listed if not options.methods or method in options.methods]
    if find_spec("trl") is None and "dpo" in chosen:
        display.logger.info("dpo is skipped: TRL is not installed; %s", install_advice("dpo"))
        chosen.remove("dpo")
    return chosen


def _used_settings(settings: Mapping[str, Any], methods: list[str]) -> dict[str, Any]:
    """Return the settings of the methods that a run trains, those that they are based on included."""
    used = {*methods, *(settings[name]["method"] for name in methods if "method" in settings.get(name, {}))}
    return {name: values for name, values in settings.items() if name in used}


def _option_notes(seed: int, options: DemoOptions) -> list[str]:
    rotation = options.rotation_of(seed)
    notes = [
        f"Counter rows: {', '.join(trained_families(rotation))}. Never trained: "
        f"{', '.join(untrained_families(rotation))}.",
        f"Families that hold forbidden text ({', '.join(holding_families())}) are "
        f"{'trained.' if options.holding else _NOT_HOLDING}",
    ]
    return notes + [f"Left out of training: crafts of the kind {kind}." for kind in options.without]


def _section(path: Path, *, suite: str, name: str) -> dict[str, Any]:
    return {"prompts": str(path), "suite": suite, "name": name, "judges": ["exact", "refusal"]}


def read_study() -> dict[str, Any]:
    """Load the studies: groups of methods with their settings, and adaptive attacks."""
    return _shipped("study.yaml")


def _shipped(name: str) -> Any:
    return yaml.safe_load((files("derta.demo") / "texts" / name).read_text(encoding="utf-8"))
