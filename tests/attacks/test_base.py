from __future__ import annotations

from random import Random

import pytest

from derta.attacks import Attack, direct
from derta.attacks.base import per_request
from derta.errors import DataError, RecipeError
from derta.records import Prompt, Request


def test_duplicate_ids_are_an_error_before_the_first_prompt() -> None:
    twins = [Request(id="7", text="Why?")] * 2
    with pytest.raises(DataError, match="1 such ids"):
        direct().craft(twins)


def test_items_that_are_not_requests_are_refused() -> None:
    with pytest.raises(DataError, match=r"expected requests, got 'Why\?'; make each a `derta.Request"):
        direct().craft(["Why?"])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["../up", "a/b", "", "<lambda>", "two words"])
def test_an_attacks_name_must_be_valid_in_a_file_name(name: str) -> None:
    with pytest.raises(RecipeError, match="attack: expected a name of letters, digits"):
        Attack(name, crafting=lambda requests, rng: iter(()))


def test_randomness_differs_between_requests_and_between_seeds() -> None:
    values: list[float] = []

    def craft_one(request: Request, rng: Random) -> list[Prompt]:
        values.append(rng.random())
        return []

    requests = [Request(id=name, text="Why?") for name in "ab"]
    for seed in (0, 1, 0):
        assert per_request("none", craft_one).craft(requests, seed=seed) == []
    assert values[:2] == values[4:]
    assert len(set(values)) == 4
