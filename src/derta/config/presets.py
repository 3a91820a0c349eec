"""Presets of `derta evaluate`: what a model is asked, on requests that the user brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BENIGN = "derta:ordinary_sorry"
"""Benign requests that are part of the package: ordinary uses of a refusal word, such as a note of condolence."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A set of evaluations.

    Attributes:
        attacks: Attacks by name with their options; `None` as an option stands for a file that the user brings.
        answered: Those that need requests with a harmful answer.
        limit: Requests of each attack and each benign set, drawn by the seed; None: all.
        max_new_tokens: Token limit of a reply.
    """

    attacks: Mapping[str, Mapping[str, Any]]
    answered: tuple[str, ...]
    limit: int | None
    max_new_tokens: int


PRESETS: Mapping[str, Preset] = {
    "quick": Preset(
        attacks={"direct": {}, "completing": {}, "prefill": {"depths": ["10%", "50%"]}},
        answered=("prefill",),
        limit=40,
        max_new_tokens=128,
    ),
    "paper": Preset(
        attacks={
            "direct": {},
            "code_attack": {},
            "jailbreak_chat": {"templates": None},
            "self_cipher": {"demonstrations": None, "role": "user"},
            "completing": {},
            "prefill": {"depths": ["0%", "50%", "100%"]},
        },
        answered=("prefill",),
        limit=None,
        max_new_tokens=1024,
    ),
}
"""Presets by name. `paper` has the six attacks of arXiv 2407.09121, with the options of recipes/shared/paper.yaml."""
