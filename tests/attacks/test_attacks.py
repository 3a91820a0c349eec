"""The contract of every attack, and how a recipe builds one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.attacks import ATTACKS, build_attack
from derta.errors import DataError, DertaError, RecipeError
from derta.files import to_line
from derta.records import Prompt, Request

SYNTAX = [
    "{{ x }}",
    "{% if y %}",
    "$x ${y}",
    "{0} {name}",
    r"\1 \g<0> %s",
    "@PUSHES@ @EXAMPLES@",
    "<|end|>",
    '"quoted"',
]


def texts() -> st.SearchStrategy[str]:
    plain = st.text(min_size=1, max_size=60).filter(lambda text: any(letter.isalnum() for letter in text))
    return st.one_of(plain, st.sampled_from([f"How do I paint {syntax} on a fence?" for syntax in SYNTAX]))


def requests() -> st.SearchStrategy[list[Request]]:
    one = st.builds(
        Request,
        id=st.text(alphabet="abc:@%/ 1", min_size=1).filter(str.strip),
        text=texts(),
        category=st.none() | st.just("gardening"),
        answer=st.none() | st.just("42"),
        harmful=st.just("Mix the flour with water, let it rest, and bake it for an hour."),
    )
    return st.lists(one, min_size=1, max_size=4, unique_by=lambda request: request.id)


@pytest.mark.parametrize("name", ATTACKS)
@given(asked=requests())
def test_every_request_gets_prompts_of_its_own_that_keep_what_judges_need(
    name: str, asked: list[Request], craft: Any, options: Any
) -> None:
    prompts: list[Prompt] = craft(build_attack(name, options.get(name, {})), asked)
    assert {prompt.request_id for prompt in prompts} == {request.id for request in asked}
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    by_id = {request.id: request for request in asked}
    for prompt in prompts:
        request = by_id[prompt.request_id]
        assert (prompt.request, prompt.category, prompt.answer) == (request.text, request.category, request.answer)
        assert prompt.attack == name
        assert prompt.suite == "attack"
        assert Prompt.model_validate_json(to_line(prompt)) == prompt


@pytest.mark.parametrize("name", ATTACKS)
@given(asked=requests())
def test_prompts_depend_on_the_seed_and_the_request_alone(
    name: str, asked: list[Request], craft: Any, options: Any
) -> None:
    attack = build_attack(name, options.get(name, {}))
    together = {prompt.id: prompt for prompt in craft(attack, asked)}
    backwards = {prompt.id: prompt for prompt in craft(attack, asked[::-1])}
    alone = {prompt.id: prompt for prompt in craft(attack, asked[:1])}
    assert together == backwards
    assert alone.items() <= together.items()


@pytest.mark.parametrize("name", ["direct", "prefill", "jailbreak_chat", "self_cipher"])
@given(text=texts())
def test_the_request_stands_in_the_prompt_character_for_character(
    name: str, text: str, craft: Any, options: Any
) -> None:
    request = Request(id="1", text=text, harmful="Mix the flour.")
    for prompt in craft(build_attack(name, options.get(name, {})), [request]):
        assert text in prompt.messages[-1].content


@pytest.mark.parametrize("name", ATTACKS)
def test_two_requests_of_one_id_are_refused(name: str, craft: Any, options: Any) -> None:
    twins = [Request(id="7", text=text, harmful="Mix.") for text in ("Why?", "How?")]
    with pytest.raises(DataError, match=r"'7' more than once"):
        craft(build_attack(name, options.get(name, {})), twins)


def test_ids_differ_between_attacks_and_variants_on_the_same_requests(craft: Any, options: Any) -> None:
    asked = [Request(id=str(n), text=f"How do I paint fence {n}?", harmful="Mix the paint.") for n in range(3)]
    ids = [prompt.id for name in ATTACKS for prompt in craft(build_attack(name, options.get(name, {})), asked)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("prefil", {}, "unknown attack 'prefil'; did you mean 'prefill'"),
        ("zzz", {}, "unknown attack 'zzz'; known: direct, prefill, "),
        (
            "prefill",
            {"depth": ["1%"]},
            "unknown option 'depth'; did you mean 'depths'",
        ),
        ("direct", {"depths": []}, "unknown option 'depths'; there are none"),
        ("jailbreak_chat", {}, "attack jailbreak_chat: expected the option `templates`"),
        ("code_attack", {"structures": ["heap"]}, "attack code_attack: option structures.0: .*got 'heap'"),
        ("code_attack", {"structures": "stack"}, "option structures: .*tuple"),
        ("code_attack", {"structures": []}, "expected one or more of"),
        ("completing", {"rewriting": "all"}, "option rewriting: .*'rules' or 'none'"),
        ("self_cipher", {"demonstrations": "none.jsonl", "count": 0}, "count of at least 1, got 0"),
        ("self_cipher", {"demonstrations": "none.jsonl"}, "none.jsonl: cannot read it"),
    ],
)
def test_a_mistaken_recipe_is_told_what_to_write(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(DertaError, match=message):
        build_attack(name, options)


def test_options_come_from_yaml_as_lists_and_strings(craft: Any) -> None:
    attack = build_attack("prefill", {"depths": ["0%", "100%"]})
    [none, whole] = craft(attack, [Request(id="1", text="How?", harmful="Mix it.")])
    assert (none.prefill, whole.prefill) == (None, "Mix it.")
    with pytest.raises(RecipeError, match=r"depths\.0"):
        build_attack("prefill", {"depths": [50]})
