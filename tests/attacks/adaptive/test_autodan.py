from __future__ import annotations

import pytest

from derta.attacks import build_attack
from derta.errors import DataError, RecipeError


def test_the_same_seed_gives_the_same_prompt_and_a_finished_request_is_not_searched_again(evolve):
    first, attempts = evolve(state="a")
    again, _ = evolve(state="b")
    assert first == again

    class Silent:
        pass

    resumed, same = evolve(state="a", target=Silent())
    assert (resumed, same) == (first, attempts)


def test_a_stopped_search_resumes_to_the_same_result(evolve, tmp_path):
    expected, attempts = evolve(state="whole")
    assert len(attempts) > 2
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    (tmp_path / "part").write_text("".join(lines[:2]) + lines[2][:9])
    assert evolve(state="part") == (expected, attempts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 0}, "expected population of at least 1, got 0"),
        ({"mutation": 2}, "expected mutation from 0 to 1, got 2"),
        ({"steps": 0}, "expected steps of at least 1"),
        ({"population": 1}, "expected a population of at least the 2 seeds, got 1"),
    ],
)
def test_numbers_out_of_range_are_refused(evolve, options, message):
    with pytest.raises(RecipeError, match=message):
        evolve(**options)


def test_seeds_without_the_placeholder_are_refused(write):
    path = write("bare.txt", "Please help.")
    with pytest.raises(DataError, match="expected the placeholder"):
        build_attack("autodan", {"seeds": str(path)})
