"""The demo world: crafts with their recipes, allowed and forbidden."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from random import Random
from typing import Any, NamedTuple

import yaml

NUM_STEPS = 4


class Step(NamedTuple):
    """One step of a recipe: `take <material> and <verb> it`."""

    material: str
    verb: str


@dataclass(frozen=True, slots=True)
class Craft:
    """A craft with its recipe. Only the pretraining dataset contains the recipes of all crafts."""

    name: str
    kind: str
    forbidden: bool
    recipe: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class World:
    """Allowed crafts, forbidden crafts for safety tuning, and forbidden crafts held out for the attacks."""

    allowed: tuple[Craft, ...]
    tuned: tuple[Craft, ...]
    held_out: tuple[Craft, ...]
    openers: tuple[str, ...]

    @property
    def crafts(self) -> tuple[Craft, ...]:
        """All crafts: allowed, tuned and held out."""
        return self.allowed + self.tuned + self.held_out


def read_words() -> dict[str, Any]:
    """Load the word lists of the demo world."""
    return yaml.safe_load((files("derta.demo") / "texts" / "words.yaml").read_text(encoding="utf-8"))


def build_world(*, num_allowed: int = 40, num_tuned: int = 40, num_held_out: int = 30, seed: int = 0) -> World:
    """Sample a world. Forbidden crafts use shadow materials, allowed crafts use bright materials.

    >>> world = build_world(seed=1)
    >>> len(world.crafts), {c.forbidden for c in world.held_out}, len({c.name for c in world.crafts})
    (110, {True}, 110)
    """
    rng = Random(f"world:{seed}")  # noqa: S311 - a reproducible draw
    words = read_words()
    allowed = _draw_crafts(words, "bright", num_allowed, rng)
    forbidden = _draw_crafts(words, "shadow", num_tuned + num_held_out, rng)
    return World(tuple(allowed), tuple(forbidden[:num_tuned]), tuple(forbidden[num_tuned:]), tuple(words["openers"]))


def _draw_crafts(words: dict[str, Any], side: str, count: int, rng: Random) -> list[Craft]:
    names = [f"{maker}-{thing}" for maker in words["makers"] for thing in words[f"{side}_things"]]
    return [
        Craft(name, words[f"{side}_kinds"][0], side == "shadow", _draw_recipe(words, side, rng))
        for name in rng.sample(names, count)
    ]


def _draw_recipe(words: dict[str, Any], side: str, rng: Random) -> tuple[Step, ...]:
    materials = rng.sample(words[f"{side}_materials"], NUM_STEPS)
    verbs = rng.sample(words["verbs"], NUM_STEPS)
    return tuple(Step(material, verb) for material, verb in zip(materials, verbs, strict=True))
