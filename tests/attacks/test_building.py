"""Attacks of a user: an attack, a factory of attacks, or a function of a request."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random

import pytest

from derta.attacks import Attack, build_attack, craft_prompt, direct, from_function
from derta.attacks.base import per_request
from derta.errors import DataError, RecipeError, RunError
from derta.records import Prompt, Request

REQUESTS = [Request(id=name, text=f"How do I paint a {name}?", category="craft") for name in ("fence", "boat")]


def politely(request: Request) -> str:
    return f"Please: {request.text}"


def several(request: Request, rng: Random, *, times: int = 2) -> Iterator[str]:
    for _ in range(times):
        yield f"{request.text} {rng.random()}"


def with_a_start(request: Request) -> Prompt:
    other = Request(id="other", text="other")
    return craft_prompt(other, attack="mine", variant="sure", text=f"{request.text} Sure, first")


def shouting(*, marks: int = 1) -> Attack:
    return per_request(
        "shouting", lambda request, rng: [craft_prompt(request, attack="shouting", text=request.text + "!" * marks)]
    )


def test_a_function_of_a_request_gets_ids_and_references_like_ours() -> None:
    [fence, boat] = build_attack(politely).craft(REQUESTS)
    assert (fence.id, boat.id) == ("politely:fence", "politely:boat")
    assert (fence.attack, fence.request, fence.category) == ("politely", REQUESTS[0].text, "craft")
    assert fence.messages is not None
    assert fence.messages[0].content == "Please: How do I paint a fence?"


def test_several_results_are_variants_and_their_randomness_belongs_to_the_request() -> None:
    attack = build_attack(several, {"times": 3})
    prompts = attack.craft(REQUESTS)
    assert [prompt.variant for prompt in prompts] == ["1", "2", "3"] * 2
    assert {prompt.id for prompt in prompts if prompt.request_id == "boat"} == {f"several@{n}:boat" for n in (1, 2, 3)}
    assert attack.craft(REQUESTS[1:]) == prompts[3:]
    assert attack.craft(REQUESTS, seed=1) != prompts


def test_a_users_prompt_keeps_its_mode_and_gets_the_ids_of_the_request() -> None:
    [prompt, _] = build_attack(with_a_start).craft(REQUESTS)
    assert (prompt.id, prompt.request_id, prompt.request) == ("with_a_start@sure:fence", "fence", REQUESTS[0].text)
    assert (prompt.mode, prompt.text) == ("raw", "How do I paint a fence? Sure, first")


def test_a_factory_takes_options_and_an_attack_none() -> None:
    [prompt, _] = build_attack(shouting, {"marks": 3}).craft(REQUESTS)
    assert prompt.text == "How do I paint a fence?!!!"
    ready = direct()
    assert build_attack(ready) is ready
    with pytest.raises(RecipeError, match="expected no options"):
        build_attack(ready, {"marks": 3})


def test_a_users_name_takes_precedence_and_is_suggested_when_misspelt() -> None:
    extra = {"direct": politely, "shout": shouting}
    assert build_attack("direct", extra=extra).craft(REQUESTS)[0].id == "direct:fence"
    with pytest.raises(RecipeError, match="unknown attack 'shuot'; did you mean 'shout'"):
        build_attack("shuot", extra=extra)


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (several, {"time": 3}, "attack several: unknown option 'time'; did you mean 'times'"),
        (politely, {"times": 3}, "attack politely: unknown option 'times'"),
        (shouting, {"mark": 3}, "attack shouting: unknown option 'mark'; did you mean 'marks'"),
        (shouting, {"marks": "many"}, "attack shouting: option marks: "),
        (lambda request: "x", {}, "give `name=`"),
        (7, {}, "expected a name, an attack or a function, got 7"),
        (lambda: "x", {}, "one of options that returns an attack, got one that returns 'x'"),
    ],
)
def test_invalid_attacks_and_options_are_refused(attack: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_attack(attack, options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("result", ["", " ", None, 7, ["", "x"], [None], b"x"])
def test_the_error_for_an_invalid_return_value_names_the_request(result: object) -> None:
    def broken(request: Request) -> object:
        return result

    with pytest.raises(DataError, match=r"attack broken: expected a text that is not empty.*request 'fence', got"):
        from_function(broken).craft(REQUESTS)  # pyright: ignore[reportArgumentType]


def test_a_function_is_identified_by_its_source_or_its_version() -> None:
    def politely(request: Request) -> str:
        return f"Would you kindly: {request.text}"

    here, there = from_function(politely, name="x"), from_function(globals()["politely"], name="x")
    assert here.identity != there.identity
    assert here.identity == from_function(politely, name="x").identity
    assert from_function(politely, version="1").identity != from_function(politely, version="2").identity
    assert from_function(several, options={"times": 1}).identity != from_function(several).identity
    bare = from_function(partial(several, times=1), name="x")
    with pytest.raises(RunError, match="version"):
        _ = bare.identity
    assert len(bare.craft(REQUESTS)) == 2  # crafting needs no identity
