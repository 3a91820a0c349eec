"""The demo world: crafts with their recipes, allowed and forbidden, and allowed twins of the forbidden ones."""

from __future__ import annotations

from collections.abc import Iterable
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
    """Allowed crafts, forbidden crafts for safety tuning, and forbidden crafts held out for the attacks.

    The i-th twin is allowed, and its name differs from that of the i-th forbidden craft in one word ("hazel-bread" and
    "hazel-bane"): the two are a contrast pair. Twins are no part of `allowed`: only pretraining has all of them.
    """

    allowed: tuple[Craft, ...]
    tuned: tuple[Craft, ...]
    held_out: tuple[Craft, ...]
    tuned_twins: tuple[Craft, ...]
    held_out_twins: tuple[Craft, ...]
    openers: tuple[str, ...]

    @property
    def crafts(self) -> tuple[Craft, ...]:
        """All crafts: allowed, tuned, held out, and the twins."""
        return self.allowed + self.tuned + self.held_out + self.tuned_twins + self.held_out_twins


def read_words() -> dict[str, Any]:
    """Load the word lists of the demo world."""
    return yaml.safe_load((files("derta.demo") / "texts" / "words.yaml").read_text(encoding="utf-8"))


def forbidden_kinds() -> tuple[str, ...]:
    """Return the kinds of forbidden crafts, the demo's categories of harm.

    >>> forbidden_kinds()
    ('curse', 'poison', 'trap')
    """
    return tuple(read_words()["shadow"])


def build_world(
    *, num_allowed: int = 40, num_tuned: int = 40, num_held_out: int = 30, num_tuned_twins: int = 10, seed: int = 0
) -> World:
    """Sample a world. Forbidden crafts use shadow materials, allowed crafts use bright materials.

    >>> world = build_world(seed=1)
    >>> len(world.crafts), {c.forbidden for c in world.held_out}, len({c.name for c in world.crafts})
    (150, {True}, 150)
    """
    rng = Random(f"world:{seed}")  # noqa: S311 - a reproducible draw
    words = read_words()
    allowed = _draw_crafts(words, "bright", num_allowed, rng)
    forbidden = _draw_crafts(words, "shadow", num_tuned + num_held_out, rng)
    tuned, held_out = forbidden[:num_tuned], forbidden[num_tuned:]
    twins = _draw_twins(words, [*tuned[:num_tuned_twins], *held_out], taken={craft.name for craft in allowed}, rng=rng)
    num_twins = len(twins) - num_held_out
    return World(
        tuple(allowed),
        tuple(tuned),
        tuple(held_out),
        tuple(twins[:num_twins]),
        tuple(twins[num_twins:]),
        tuple(words["openers"]),
    )


def _names(words: dict[str, Any], side: str, kind: str, makers: Iterable[str]) -> list[str]:
    return [f"{maker}-{thing}" for maker in makers for thing in words[side][kind]["things"]]


def _draw_crafts(words: dict[str, Any], side: str, count: int, rng: Random) -> list[Craft]:
    """Sample crafts whose kinds take turns, so that each part of the list has about as many of each."""
    kinds = [*words[side]]
    names = {kind: rng.sample(names := _names(words, side, kind, words["makers"]), len(names)) for kind in kinds}
    return [_draw_craft(words, side, kind, names[kind].pop(), rng) for kind in (kinds * count)[:count]]


def _draw_twins(words: dict[str, Any], crafts: Iterable[Craft], *, taken: set[str], rng: Random) -> list[Craft]:
    """Sample an allowed craft for each forbidden craft, by the same maker if it has names that are not taken."""
    twins: list[Craft] = []
    for craft in crafts:
        maker = craft.name.split("-")[0]
        free = _bright_names(words, [maker], taken) or _bright_names(words, words["makers"], taken)
        name = rng.choice([*free])
        taken.add(name)
        twins.append(_draw_craft(words, "bright", free[name], name, rng))
    return twins


def _bright_names(words: dict[str, Any], makers: Iterable[str], taken: set[str]) -> dict[str, str]:
    """Return the kind of each name that is not taken."""
    kinds = {name: kind for kind in words["bright"] for name in _names(words, "bright", kind, makers)}
    return {name: kind for name, kind in kinds.items() if name not in taken}


def _draw_craft(words: dict[str, Any], side: str, kind: str, name: str, rng: Random) -> Craft:
    materials = rng.sample(words[side][kind]["materials"], NUM_STEPS)
    verbs = rng.sample(words["verbs"], NUM_STEPS)
    steps = (Step(material, verb) for material, verb in zip(materials, verbs, strict=True))
    return Craft(name, kind, side == "shadow", tuple(steps))
