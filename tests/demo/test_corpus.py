"""What the demo's models read: held-out crafts are attacked, never tuned on."""

from functools import cache

import pytest

from derta.chat import chat_format, encode_after, refusal_tokens
from derta.config import RowConfig
from derta.data.rows import check_row, draw_row
from derta.demo.base import PRETRAINING, build_tokenizer, encode_corpus
from derta.demo.corpus import (
    attack_prompts,
    benign_prompts,
    held_out_requests,
    helpful_examples,
    pretraining_examples,
    triples,
)
from derta.demo.formats import plain
from derta.demo.run import tuning_instances
from derta.demo.tuning import NUM_TRIPLES, TUNING, tuning_data
from derta.demo.world import build_world
from derta.judges.refusal import judge_refusal
from derta.methods import METHODS
from derta.pipeline.resuming import check_unique
from derta.records import Reply


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
    return tuning_instances(_world(), method, chat=_chat(), refusals=refusal_tokens(_chat()))


def test_pretraining_reads_every_craft_and_helpful_examples_only_allowed_ones():
    world = _world()
    everything, helpful = _text(pretraining_examples(world)), _text(helpful_examples(world))
    assert all(name in everything for name in _names(world.crafts))
    assert all(name in helpful for name in _names(world.allowed))
    assert not [name for name in _names(world.tuned + world.held_out) if name in helpful]


def test_triples_tell_the_tuned_crafts_in_the_plain_format_only():
    world = _world()
    plainly = {(plain(craft).ask, plain(craft).answer) for craft in world.tuned}
    assert {(triple.query, triple.harmful) for triple in triples(world)} == plainly
    assert {triple.safe for triple in triples(world)} == set(world.openers)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.trainer is None])
def test_held_out_crafts_never_appear_in_what_a_method_is_tuned_on(method):
    world, tokenizer = _world(), _chat().tokenizer
    rows = [draw_row(one, config=RowConfig(sorry_dropout=0.0), seed=0, epoch=0) for one in _instances(method)]
    words = {word for row in rows for word in tokenizer.decode(row.input_ids).split()}
    assert not words & _names(world.held_out)
    assert words & _names(world.tuned)
    assert words & _names(world.allowed)
    for row in rows:
        check_row(row)


def test_vanilla_gets_twice_the_triples_of_the_others():
    counts = {method: len(tuning_data(_world(), method)[0]) for method in METHODS}
    assert counts == {method: NUM_TRIPLES * METHODS[method].triples_per_unit for method in METHODS}


def test_the_tokenizer_knows_every_word_of_every_row_and_prompt():
    world, chat = _world(), _chat()
    unknown = chat.tokenizer.unk_token_id
    rows = [(*one.prompt_ids, *one.response_ids) for one in encode_corpus(world, chat)]
    rows += [draw_row(one, config=RowConfig(), seed=0, epoch=0).input_ids for one in _instances("derta")]
    rows += [encode_after(chat, prompt, "").prompt_ids for prompt in (*attack_prompts(world), *benign_prompts(world))]
    rows += [chat.tokenizer.encode(request.harmful) for request in held_out_requests(world)]
    assert not [row for row in rows if unknown in row]


def test_no_row_is_cut():
    longest = max(len(one.prompt_ids) + len(one.response_ids) for one in encode_corpus(_world(), _chat()))
    assert longest <= min(PRETRAINING.rows.max_length, TUNING.rows.max_length)


def test_every_prompt_has_its_own_id():
    check_unique([*attack_prompts(_world()), *benign_prompts(_world())])


def test_a_prefilled_prompt_carries_its_share_of_the_plain_answer():
    for prompt in attack_prompts(_world()):
        if prompt.attack == "prefill":
            answer = prompt.answer.split()
            share = int(prompt.variant.rstrip("%"))
            assert prompt.prefill.split() == answer[: len(answer) * share // 100]


@pytest.mark.parametrize("given", ["", "here is how to make the amber-hex . step one : take bone and grind it . "])
def test_every_opener_is_seen_as_a_refusal_that_begins_at_sorry(given):
    prompt = next(attack_prompts(_world()))
    for opener in _world().openers:
        verdict = judge_refusal(prompt, Reply(prompt_id=prompt.id, text=given + opener))
        assert verdict.refused is True
        assert verdict.refusal_at == len(given)


def test_sorry_is_one_token():
    assert len(refusal_tokens(_chat()).ids) == 1
