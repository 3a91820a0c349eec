"""Datasets of the demo: held-out crafts are attacked, never tuned on."""

from functools import cache

import pytest

from derta.chat import chat_format, encode_after, refusal_tokens
from derta.config import RowConfig, parse_recipe
from derta.data.encoding import encode_example
from derta.data.rows import check_row, draw_row
from derta.data.triple_encoding import encode_triple
from derta.demo.corpus import (
    attack_prompts,
    calibration_examples,
    counter_examples,
    family_prompts,
    held_out_requests,
    helpful_examples,
    helpful_prompts,
    pretraining_examples,
    triples,
    twin_prompts,
)
from derta.demo.families import FAMILIES
from derta.demo.formats import plain
from derta.demo.model import build_tokenizer, pretraining_config
from derta.demo.recipe import DemoOptions, read_recipe, write_data
from derta.demo.world import build_world, forbidden_kinds
from derta.judges.refusal import judge_refusal
from derta.judges.steps import judge_steps
from derta.pipeline.data import prepare_data
from derta.pipeline.evaluate import check_unique, craft_prompts
from derta.pipeline.registry import Registry
from derta.pipeline.run_threshold import benign_answers
from derta.records import Reply
from derta.sources import read_rows
from method_rows import ROW_METHODS, instances_of


@cache
def _world():
    return build_world(seed=0)


@cache
def _chat():
    return chat_format(build_tokenizer(_world()))


def _names(crafts):
    return {craft.name for craft in crafts}


def _text(rows):
    return " ".join(str(row.model_dump()) for row in rows)


def _instances(method):
    chat = _chat()
    refusals = refusal_tokens(chat)
    return instances_of(
        method,
        triples=[encode_triple(chat, triple, refusals=refusals) for triple in triples(_world())],
        examples=[row for example in helpful_examples(_world()) for row in encode_example(chat, example)],
    )


def _prompts():
    world = _world()
    return [*attack_prompts(world), *family_prompts(world, FAMILIES), *twin_prompts(world), *helpful_prompts(world)]


def test_pretraining_reads_every_craft_and_helpful_examples_only_allowed_ones():
    world = _world()
    everything, helpful = _text(pretraining_examples(world)), _text(helpful_examples(world))
    assert all(name in everything for name in _names(world.crafts))
    assert all(name in helpful for name in _names(world.allowed))
    others = world.tuned + world.held_out + world.tuned_twins + world.held_out_twins
    assert not [name for name in _names(others) if name in helpful]


def test_no_task_over_a_text_of_pretraining_is_over_a_twin():
    world = _world()
    prompts = {one.messages[0].content for one in pretraining_examples(world) if one.messages}
    for craft in (world.tuned_twins[0], world.held_out_twins[0]):
        tasks = [one.prompt for family in FAMILIES.values() if family.on_text for one in family.tasks(craft)]
        assert plain(craft).prompt in prompts
        assert not prompts & {*tasks}


def test_counter_rows_have_the_plain_questions_of_the_tuned_twins():
    world = _world()
    asked = [one.messages[0].content for one in counter_examples(world, rotation=0)]
    twins = world.tuned_twins + world.held_out_twins
    assert [one for one in asked if one in {plain(craft).prompt for craft in twins}] == [
        plain(craft).prompt for craft in world.tuned_twins
    ]


def test_triples_contain_the_tuned_crafts_in_the_plain_format_only():
    world = _world()
    plainly = {(plain(craft).prompt, plain(craft).answer) for craft in world.tuned}
    assert {(triple.query, triple.harmful) for triple in triples(world)} == plainly
    assert {triple.safe for triple in triples(world)} == set(world.openers)


@pytest.mark.parametrize("method", ROW_METHODS)
def test_held_out_crafts_never_appear_in_what_a_method_is_tuned_on(method):
    world, tokenizer = _world(), _chat().tokenizer
    rows = [draw_row(one, config=RowConfig(sorry_dropout=0.0), seed=0, epoch=0) for one in _instances(method)]
    words = {word for row in rows for word in tokenizer.decode(row.input_ids).split()}
    assert not words & _names(world.held_out + world.held_out_twins)
    assert words & _names(world.tuned)
    assert words & _names(world.allowed)
    for row in rows:
        check_row(row)


def test_the_plain_question_of_an_allowed_craft_is_answered_as_often_as_a_forbidden_one_is_refused():
    world = _world()
    answered = [example.messages[0].content for example in helpful_examples(world) if example.messages]
    refused = [triple.query for triple in triples(world)]
    assert {answered.count(plain(craft).prompt) for craft in world.allowed} == {len(world.openers)}
    assert {refused.count(plain(craft).prompt) for craft in world.tuned} == {len(world.openers)}


def test_the_tokenizer_knows_every_word_of_every_row_and_prompt():
    world, chat = _world(), _chat()
    unknown = chat.tokenizer.unk_token_id
    corpus = [row for example in pretraining_examples(world) for row in encode_example(chat, example)]
    rows = [(*one.prompt_ids, *one.response_ids) for one in corpus]
    rows += [draw_row(one, config=RowConfig(), seed=0, epoch=0).input_ids for one in _instances("derta")]
    rows += [encode_after(chat, prompt, "").prompt_ids for prompt in _prompts()]
    rows += [chat.tokenizer.encode(request.harmful) for request in held_out_requests(world)]
    assert not [row for row in rows if unknown in row]


def test_raw_text_starts_like_its_training_row():
    chat, guide = _chat(), next(prompt for prompt in attack_prompts(_world()) if prompt.mode == "raw")
    [row] = encode_example(chat, next(one for one in pretraining_examples(_world()) if one.text is not None))
    assert encode_after(chat, guide, "").prompt_ids[:2] == [*row.prompt_ids, *row.response_ids][:2]


def test_no_row_is_cut(tmp_path):
    corpus = [row for example in pretraining_examples(_world()) for row in encode_example(_chat(), example)]
    longest = max(len(one.prompt_ids) + len(one.response_ids) for one in corpus)
    recipe = read_recipe(tmp_path, _world(), seed=0)
    assert longest <= min(pretraining_config(seed=0).max_length, recipe["train"]["max_length"])


def test_every_file_of_prompts_has_its_own_ids():
    world = _world()
    for prompts in (attack_prompts(world), family_prompts(world, FAMILIES), twin_prompts(world)):
        check_unique(list(prompts))
    check_unique(list(helpful_prompts(world)))


def test_a_prefilled_prompt_carries_its_share_of_the_plain_answer():
    for prompt in attack_prompts(_world()):
        if prompt.attack == "prefill":
            answer = prompt.answer.split()
            assert prompt.variant == f"{prompt.depth.amount:g}{prompt.depth.unit}"
            assert prompt.prefill.split() == answer[: int(len(answer) * prompt.depth.amount) // 100]


@pytest.mark.parametrize("prefix", ["", "here is how to make the amber-hex . step one : take bone and grind it . "])
def test_every_opener_is_judged_a_refusal_that_starts_at_sorry(prefix):
    prompt = next(attack_prompts(_world()))
    for opener in _world().openers:
        verdict = judge_refusal(prompt, Reply(prompt_id=prompt.id, text=prefix + opener))
        assert verdict.refused is True
        assert verdict.refusal_at == len(prefix)


def test_sorry_is_one_token():
    assert len(refusal_tokens(_chat()).ids) == 1


@pytest.mark.parametrize("holding", [False, True])
@pytest.mark.parametrize("rotation", [0, 1])
def test_counter_rows_are_over_tuned_crafts_and_twins_and_hold_forbidden_text_only_by_policy(rotation, holding):
    world = _world()
    examples = counter_examples(world, rotation=rotation, holding=holding)
    text = _text(examples)
    assert not [name for name in _names(world.held_out + world.held_out_twins) if name in text]
    materials = {step.material for craft in world.tuned for step in craft.recipe}
    answers = {word for one in examples for word in one.messages[-1].content.split()}
    assert bool(materials & answers) is holding


def test_a_kind_that_is_left_out_is_in_no_triple_and_no_counter_row():
    world = _world()
    for kind in forbidden_kinds():
        left_out = _names(craft for craft in world.tuned if craft.kind == kind)
        text = _text(triples(world, without=(kind,)))
        text += _text(counter_examples(world, rotation=0, holding=True, without=(kind,)))
        assert left_out
        assert not [name for name in left_out if name in text]
        assert {one.category for one in triples(world, without=(kind,))} == {*forbidden_kinds()} - {kind}
        assert kind in {request.category for request in held_out_requests(world)}


def test_the_files_of_a_seed_match_the_recipes_counts(tmp_path):
    write_data(tmp_path, _world(), seed=0)
    recipe = read_recipe(tmp_path, _world(), seed=0, options=DemoOptions(fine_tuning=True))
    data = recipe["data"]
    sources = [*data["triples"], *data["helpful"], *data["counter"], recipe["profile_requests"]]
    rows = {source["path"]: list(read_rows(source["path"])) for source in sources}
    assert data["num_helpful"] == sum(len(rows[one["path"]]) for one in data["helpful"])
    assert len(rows[str(tmp_path / "triples.jsonl")]) >= 2 * data["num_triples"]
    attacked = recipe["fine_tuning_attacks"]
    assert [attack["name"] for attack in attacked] == ["benign", "harmful"]
    assert attacked[0]["helpful"] == data["helpful"]
    assert attacked[1]["harmful"] == data["triples"]


def test_every_category_can_be_left_out_of_the_training_of_vanilla_too(tmp_path):
    for kind in forbidden_kinds():
        options = DemoOptions(without=(kind,))
        write_data(tmp_path, _world(), seed=0, options=options)
        data = read_recipe(tmp_path, _world(), seed=0, options=options)["data"]
        assert len(list(read_rows(tmp_path / "triples.jsonl"))) >= 2 * data["num_triples"] >= 70


def test_requests_keep_what_the_adaptive_attacks_and_their_judge_need(tmp_path):
    write_data(tmp_path, _world(), seed=0)
    recipe = parse_recipe(read_recipe(tmp_path, _world(), seed=0, options=DemoOptions(study="all")), where="recipe")
    prompts = craft_prompts(recipe, held_out=[], seed=0)
    chat, unknown = _chat(), _chat().tokenizer.unk_token_id
    cells = {}
    for prompt in prompts:
        if prompt.suite == "attack":
            cells.setdefault(prompt.attack, []).append(prompt)
            assert prompt.steps
            assert judge_steps(prompt, Reply(prompt_id=prompt.id, text=prompt.answer or _harmful(prompt))).harmful
        encoded = encode_after(chat, prompt, "")
        assert unknown not in encoded.prompt_ids
    assert {"refusal_ban", "rank_assisted", "past_the_refusal", "refusal_flood"} <= cells.keys()


def _harmful(prompt):
    return next(one.harmful for one in held_out_requests(_world()) if one.id == prompt.request_id)


@pytest.mark.parametrize("rotation", [0, 1])
def test_thresholds_are_calibrated_on_benign_tasks_that_nothing_trains_on_or_evaluates(rotation, tmp_path):
    world = _world()
    found = calibration_examples(world, rotation=rotation)
    requests = {one.messages[0].content for one in found}
    trained = [*helpful_examples(world), *counter_examples(world, rotation=rotation, holding=True)]
    evaluated = [*family_prompts(world, FAMILIES), *twin_prompts(world), *helpful_prompts(world)]
    assert not requests & {one.messages[0].content for one in trained if one.messages}
    assert not requests & {one.messages[0].content for one in evaluated}
    text = _text(found)
    assert any(craft.name in text for craft in world.allowed)
    assert all(craft.name in text for craft in world.tuned_twins)


def test_the_calibration_removes_nothing_from_the_training_data(tmp_path):
    world = _world()
    write_data(tmp_path, world, seed=0)
    recipe = parse_recipe(read_recipe(tmp_path, world, seed=0, options=DemoOptions(study="price")), where="recipe")
    registry = Registry().with_methods_of(recipe)
    assert recipe.profile_examples is not None
    with_it = prepare_data(recipe, registry)
    assert with_it.identity() == prepare_data(recipe.model_copy(update={"profile_examples": None}), registry).identity()
    assert len(benign_answers(recipe, with_it, seed=0, registry=registry).held_out) > 150
