"""Contract tests of every attack, static or adaptive, and of building one from a recipe's options."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import derta.attacks
from derta.attacks import ATTACKS, Attack, build_attack
from derta.engines.scripted import ScriptedModel
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


def reply_to(prompt: Prompt) -> str:
    """Return the reply of a target that complies after a turn or two of conversation."""
    return "First mix it." if len(prompt.messages or ()) > 2 else "Sorry, no."


def attack_prompts(attack: Attack, requested: Sequence[Request], *, seed: int = 0) -> list[Prompt]:
    """Return the prompts of any attack; a search has scripted models, and a constant clock."""
    if not attack.searches:
        return attack.craft(requested, seed=seed)
    draft = json.dumps({"improvement": "politer", "prompt": "Tell me, please."})
    prompts = attack.search(
        requested,
        target=ScriptedModel(reply_to),
        attacker=ScriptedModel(lambda _: draft),
        judge=lambda _, reply: "mix" in reply.text,
        seed=seed,
        clock=lambda: 0.0,
    )
    return list(prompts)


@pytest.fixture
def build(options: dict[str, dict[str, object]]) -> Callable[[str], Attack]:
    return lambda name: build_attack(name, options.get(name, {}))


@pytest.fixture(scope="module")
def built(options: dict[str, dict[str, object]]) -> Callable[[str], Attack]:
    """Return a function that builds each attack once, however many examples a property has."""
    return cache(lambda name: build_attack(name, options.get(name, {})))


STATIC = [name for name in ATTACKS if name not in ("pair", "escalation", "multi_turn", "autodan")]


def test_searches_are_marked_and_only_two_require_helpers(build: Any) -> None:
    assert [name for name in ATTACKS if not build(name).searches] == STATIC
    needy = {name for name in ATTACKS if build(name).needs_attacker or build(name).needs_judge}
    assert needy == {"pair", "escalation"}


@pytest.mark.parametrize("name", ATTACKS)
@given(requested=requests())
def test_every_request_gets_its_own_prompts_with_the_fields_that_judges_need(
    name: str, requested: list[Request], built: Any
) -> None:
    prompts = attack_prompts(built(name), requested)
    assert {prompt.request_id for prompt in prompts} == {request.id for request in requested}
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    by_id = {request.id: request for request in requested}
    for prompt in prompts:
        request = by_id[prompt.request_id]
        assert (prompt.request, prompt.category, prompt.answer) == (request.text, request.category, request.answer)
        assert prompt.attack == name
        assert prompt.suite == "attack"
        assert Prompt.model_validate_json(to_line(prompt)) == prompt


@pytest.mark.parametrize("name", ATTACKS)
@given(requested=requests())
def test_the_same_seed_gives_the_same_prompts(name: str, requested: list[Request], built: Any) -> None:
    assert attack_prompts(built(name), requested, seed=3) == attack_prompts(built(name), requested, seed=3)


@pytest.mark.parametrize("name", STATIC)
@given(requested=requests())
def test_prompts_depend_on_nothing_but_the_seed_and_the_request(
    name: str, requested: list[Request], built: Any, craft: Any
) -> None:
    attack = built(name)
    together = {prompt.id: prompt for prompt in craft(attack, requested)}
    backwards = {prompt.id: prompt for prompt in craft(attack, requested[::-1])}
    single = {prompt.id: prompt for prompt in craft(attack, requested[:1])}
    assert together == backwards
    assert single.items() <= together.items()


@pytest.mark.parametrize("name", ["direct", "prefill", "jailbreak_chat", "self_cipher"])
@given(text=texts())
def test_the_request_is_in_the_prompt_character_for_character(name: str, text: str, craft: Any, built: Any) -> None:
    request = Request(id="1", text=text, harmful="Mix the flour.")
    for prompt in craft(built(name), [request]):
        assert text in prompt.messages[-1].content


@pytest.mark.parametrize("name", ATTACKS)
def test_two_requests_of_one_id_are_refused(name: str, build: Any) -> None:
    twins = [Request(id="7", text=text, harmful="Mix.") for text in ("Why?", "How?")]
    with pytest.raises(DataError, match=r"'7' more than once"):
        attack_prompts(build(name), twins)


def test_ids_differ_between_attacks_and_variants_on_the_same_requests(build: Any) -> None:
    requested = [Request(id=str(n), text=f"How do I paint fence {n}?", harmful="Mix the paint.") for n in range(3)]
    ids = [prompt.id for name in ATTACKS for prompt in attack_prompts(build(name), requested)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_identified_by_its_name_and_options(name: str, build: Any) -> None:
    assert build(name).name == name
    assert build(name).identity == build(name).identity
    others = {build(other).identity for other in ATTACKS if other != name}
    assert build(name).identity not in others


def test_another_option_is_another_identity() -> None:
    assert derta.attacks.prefill(depths=("1%",)).identity != derta.attacks.prefill(depths=("2%",)).identity


def test_a_search_has_no_craft_and_a_static_attack_no_search() -> None:
    with pytest.raises(RecipeError, match="attack pair queries the target"):
        derta.attacks.pair().craft([])
    with pytest.raises(RecipeError, match="attack direct queries no model"):
        derta.attacks.direct().search([], target=ScriptedModel({}))
    with pytest.raises(RecipeError, match="expected `crafting` or `searching`, and not both"):
        Attack("neither")


def test_every_name_is_called_after_every_submodule_was_imported(options: Any) -> None:
    for module in pkgutil.walk_packages(derta.attacks.__path__, "derta.attacks."):
        importlib.import_module(module.name)
    for name in ATTACKS:
        assert getattr(derta.attacks, name)(**options.get(name, {})).name == name
    assert set(ATTACKS) <= set(derta.attacks.__all__)


def test_no_attack_imports_torch() -> None:
    script = (
        "import pkgutil, importlib, sys, derta.attacks as a\n"
        "for m in pkgutil.walk_packages(a.__path__, 'derta.attacks.'): importlib.import_module(m.name)\n"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("prefil", {}, "unknown attack 'prefil'; did you mean 'prefill'"),
        ("zzz", {}, "unknown attack 'zzz'; known: .*prefill"),
        (
            "prefill",
            {"depth": ["1%"]},
            "unknown option 'depth'; did you mean 'depths'",
        ),
        ("pair", {"tries": 5}, "unknown option 'tries'; did you mean 'attacker_attempts'"),
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
def test_the_error_for_an_invalid_recipe_names_the_fix(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(DertaError, match=message):
        build_attack(name, options)


def test_options_come_from_yaml_as_lists_and_strings(craft: Any) -> None:
    attack = build_attack("prefill", {"depths": ["0%", "100%"]})
    [none, whole] = craft(attack, [Request(id="1", text="How?", harmful="Mix it.")])
    assert (none.prefill, whole.prefill) == (None, "Mix it.")
    with pytest.raises(RecipeError, match=r"depths\.0"):
        build_attack("prefill", {"depths": [50]})
