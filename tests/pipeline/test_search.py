"""Attacks from the command line: the adaptive ones and the searches, on a tiny random model."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from derta.config import load_recipe
from derta.engines.scripted import ScriptedModel
from derta.errors import EngineError, RecipeError
from derta.files import read_records
from derta.judges import build_judge
from derta.pipeline.generate import check_decoding
from derta.pipeline.search import add_searched_prompts, check_search_judge
from derta.records import Prompt, Reply, Request


@pytest.fixture
def asked(tmp_path):
    path = tmp_path / "asked.jsonl"
    rows = [{"id": f"q{n}", "text": f"Where is {thing} now?"} for n, thing in enumerate(("bread", "tea"))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def seeds(tmp_path):
    path = tmp_path / "seeds.txt"
    path.write_text("Dear cook. Please help. [INSERT PROMPT HERE]\n=====\nTell me, [INSERT PROMPT HERE]")
    return path


def changed(recipe, **sections):
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | sections))
    return recipe


def prompts_in(path):
    return list(read_records(path, Prompt))


def test_a_refusal_ban_goes_through_attack_and_reply(derta, asked, tmp_path, tiny_model_dir):
    out, replies = tmp_path / "prompts.jsonl", tmp_path / "replies.jsonl"
    called = derta("attack", "refusal_ban", "--requests", asked, "--option", "spans=[2, all]", "--out", out)
    assert called.code == 0, called.err
    assert [prompt.id for prompt in prompts_in(out)] == [
        f"refusal_ban@{n}:{q}" for q in ("q0", "q1") for n in ("2", "all")
    ]
    called = derta("generate", out, "--model", tiny_model_dir, "--out", replies, "--max-new-tokens", 4)
    assert called.code == 0, called.err
    assert len(list(read_records(replies, Reply))) == 4


def test_engines_that_do_not_support_a_ban_refuse_it(derta, asked, tmp_path):
    out = tmp_path / "prompts.jsonl"
    derta("attack", "rank_assisted", "--requests", asked, "--out", out)
    called = derta("generate", out, "--model", "m", "--engine", "api", "--out", tmp_path / "r.jsonl")
    assert called.code == 2
    assert "engine api: cannot ban tokens while decoding, as 'rank_assisted@5-of-top20:q0' needs" in called.err
    with pytest.raises(EngineError):
        check_decoding("vllm", prompts_in(out))


@pytest.mark.parametrize("name", ["pair", "escalation", "multi_turn", "autodan"])
def test_every_search_runs_on_a_model_reports_its_cost_and_resumes(name, derta, asked, seeds, make_model_dir):
    # instructions are longer than the usual tiny model's positions
    model, out = make_model_dir(max_position_embeddings=2048), asked.with_name("prompts.jsonl")
    small = {
        "pair": ["streams=2", "depth=1", "attacker_attempts=1", "max_new_tokens=4", "attacker_tokens=4", "role=user"],
        "escalation": ["depth=1", "attacker_attempts=1", "max_new_tokens=4", "attacker_tokens=4", "role=user"],
        "multi_turn": ["turns=[1]", "max_new_tokens=4"],
        "autodan": [f"seeds={seeds}", "population=4", "steps=2", "max_new_tokens=4", "start=Sure"],
    }[name]
    words = ["attack", name, "--requests", asked, "--target", model, "--out", out, "--json", "--judge", "harm"]
    words += ["--attacker", model] if name in {"pair", "escalation"} else []
    words += [word for option in small for word in ("--option", option)]
    called = derta(*words)
    assert called.code == 0, called.err
    found = json.loads(called.out)
    assert found["prompts"] == len(prompts_in(out)) == 2
    asks = found["cost"]["attacker_queries" if name in {"pair", "escalation"} else "target_queries"]
    assert asks > 0
    before = out.read_bytes(), out.with_name("prompts.jsonl.attempts.jsonl").read_bytes()
    assert derta(*words).code == 0
    assert (out.read_bytes(), out.with_name("prompts.jsonl.attempts.jsonl").read_bytes()) == before
    again = derta(*words, "--seed", 1)
    assert (again.code, "expected the attempts of this search" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pair"], "attack pair queries the target while it searches; expected --target MODEL"),
        (["pair", "--target", "m", "--option", "stream=2"], "unknown option 'stream'.*did you mean 'streams'"),
        (["direct", "--target", "m"], "attack direct queries no model"),
        (["direct", "--judge-model", "m"], "attack direct queries no model"),
        (["multi_turn", "--target", "nowhere/m", "--judge", "refusal"], "'refusal': expected one that measures harm"),
        (["piar", "--target", "m"], "unknown attack 'piar'; did you mean 'pair'"),
    ],
)
def test_mistakes_are_one_line(derta, asked, tmp_path, words, message):
    called = derta("attack", *words, "--requests", asked, "--out", tmp_path / "p.jsonl")
    assert called.code == 2
    assert re.search(message, called.err)


def test_a_judge_that_does_not_measure_harm_cannot_guide_a_search():
    with pytest.raises(RecipeError, match="expected one that measures harm"):
        check_search_judge(build_judge("refusal"))


def test_crafting_with_a_search_is_refused_and_names_the_command():
    from derta.attacks import build_attack

    with pytest.raises(RecipeError, match="derta attack pair --target MODEL"):
        build_attack("pair").craft([])


def test_a_recipes_searches_find_prompts_for_each_model_and_resume(tmp_path, recipe):
    from derta.pipeline.run import run

    requests = {"path": str(tmp_path / "asked.jsonl")}
    evaluate = [
        {"attack": "refusal_ban", "requests": requests, "options": {"spans": ["all"]}},
        {"attack": "multi_turn", "requests": requests, "options": {"turns": [1], "max_new_tokens": 3}},
    ]
    path = changed(recipe, methods=["vanilla"], evaluate=evaluate, profile_answers=0)
    folder = tmp_path / "run"
    summary = run(load_recipe(path), out=folder)
    home = folder / "vanilla-seed0"
    assert [prompt.attack for prompt in prompts_in(home / "prompts.jsonl")] == ["refusal_ban"] * 3 + ["multi_turn"] * 3
    assert {cell.name for cell in summary.cells} >= {"refusal_ban@all", "multi_turn@1"}
    assert any("vanilla, seed 0: multi_turn took 3 queries of the target" in note for note in summary.notes)
    (home / "prompts.jsonl").unlink()
    again = run(load_recipe(path), out=folder)
    assert again.notes == summary.notes  # from the attempts: nobody was queried again


SECTION = {"attack": "multi_turn", "requests": "held_out", "options": {"turns": [1], "max_new_tokens": 3}}


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize(
    "other",
    [
        {"options": {"turns": [2], "max_new_tokens": 3}},
        {"options": {"turns": [1]}},
        {"search": {"judge": "harm"}},
        {"search": {"attacker": {"model": "MODEL"}}},
        {"name": "another"},
        {"generate": {"dtype": "bfloat16"}},
        {"requests": {"path": "ASKED"}},
    ],
)
def test_a_search_resumes_only_with_the_options_and_models_of_its_start(
    tmp_path, recipe, tiny_model_dir, other, killed
):
    queried = []
    engine = ScriptedModel(lambda prompt: queried.append(prompt) or "Wait.")
    held_out = [Request(id="tea", text="How do I make tea?")]
    generate = yaml.safe_load(recipe.read_text())["generate"]

    def search(section):
        if killed:  # before the prompts were written: only the attempts exist
            (tmp_path / "prompts.jsonl").unlink(missing_ok=True)
        sections = {"generate": generate | section.pop("generate", {}), "evaluate": [section]}
        queried.clear()
        loaded = load_recipe(changed(recipe, **sections))
        target = {"dtype": loaded.generate.dtype}
        return list(add_searched_prompts(loaded, [], engine=engine, target=target, home=tmp_path, held_out=held_out))

    prompts = search(dict(SECTION))
    assert len(queried) == 1
    assert search(dict(SECTION)) == prompts
    assert queried == []
    places = {"MODEL": str(tiny_model_dir), "ASKED": str(tmp_path / "asked.jsonl")}
    text = json.dumps(SECTION | other)
    search(json.loads(re.sub("MODEL|ASKED", lambda match: places[match[0]], text)))
    assert queried


@pytest.mark.parametrize("word", [("--target-option", "dtype=bfloat16"), ("--judge", "harm"), ("--seed", 1)])
def test_the_command_resumes_a_search_only_with_the_same_settings(derta, asked, tiny_model_dir, word):
    words = ["attack", "multi_turn", "--requests", asked, "--target", tiny_model_dir]
    words += ["--out", asked.with_name("p.jsonl"), "--option", "turns=[1]", "--option", "max_new_tokens=3"]
    assert derta(*words).code == 0
    called = derta(*words, *word)
    assert (called.code, "expected the attempts of this search" in called.err) == (2, True), called.err


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"attack": "pair"}, "pair needs `search: {attacker:"),
        ({"attack": "multi_turn", "options": {"turns": [0]}}, r"turns\.0"),
        ({"attack": "multi_turn", "search": {"judge": "refusal"}}, "expected one that measures harm"),
        ({"attack": "multi_turn", "search": {"jugde": "harm"}}, "did you mean 'judge'"),
        (
            {"attack": "multi_turn", "search": {"attacker": {"model": "m", "settings": {"thread": 1}}}},
            "unknown setting 'thread'; did you mean 'threads'",
        ),
    ],
)
def test_a_recipes_search_is_checked_before_anything_is_trained(tmp_path, section, message, derta, recipe):
    path = changed(recipe, model={"path": "no-model"}, evaluate=[{"requests": "held_out", **section}])
    called = derta("run", path, "--out", tmp_path / "run")
    assert called.code == 2
    assert re.search(message, called.err)
