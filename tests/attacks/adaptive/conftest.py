"""The fixture of the genetic search: AutoDAN on the landscape of `landscape.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from landscape import REQUEST, SEEDS, SYNONYMS, count_good, judge
from landscape import log_prob as slope

from derta.attacks import build_attack, read_attempts
from derta.attacks.attempts import Attempt
from derta.engines.scripted import ScriptedModel
from derta.records import Prompt

Evolve = Callable[..., tuple[Prompt, list[Attempt]]]


@pytest.fixture
def evolve(tmp_path: Path, write: Callable[[str, str], Path]) -> Evolve:
    """Run AutoDAN for one request, and return its prompt and the attempts in the state file."""
    write("seeds.txt", "\n=====\n".join(SEEDS))
    write("synonyms.txt", SYNONYMS)

    def run(
        *,
        state: str = "attempts",
        log_prob: Any = slope,
        attacker: Any = None,
        target: Any = None,
        judged: bool = True,
        seed: int = 0,
        **options: object,
    ) -> tuple[Prompt, list[Attempt]]:
        attack = build_attack(
            "autodan",
            {
                "seeds": str(tmp_path / "seeds.txt"),
                "synonyms": str(tmp_path / "synonyms.txt"),
                "population": 24,
                "steps": 60,
                "mutation": 0.2,
                **options,
            },
        )
        model = ScriptedModel(lambda prompt: "yes" if count_good(prompt) == 3 else "no", log_prob=log_prob)
        [prompt] = attack.search(
            [REQUEST],
            target=target or model,
            attacker=attacker and ScriptedModel(attacker),
            judge=judge if judged else None,
            state=tmp_path / state,
            seed=seed,
            clock=lambda: 0.0,
        )
        return prompt, read_attempts(tmp_path / state)

    return run
