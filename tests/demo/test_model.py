"""The demo's tokenizer, its random model and two steps of its pretraining, on a small world."""

from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from derta.demo.corpus import all_words
from derta.demo.model import build_model, build_tokenizer, pretrain, pretraining_config, write_untrained
from derta.demo.world import build_world


@cache
def _world():
    return build_world(num_allowed=2, num_tuned=2, num_held_out=2)


@cache
def _tokenizer():
    return build_tokenizer(_world())


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_word_of_the_world_is_one_token_and_decodes_to_itself():
    words = all_words(_world())
    ids = _tokenizer().encode(" ".join(words), add_special_tokens=False)
    assert len(set(ids)) == len(ids) == len(words)
    assert _tokenizer().unk_token_id not in ids
    assert _tokenizer().decode(ids) == " ".join(words)


def test_a_word_of_no_text_is_unknown():
    assert _tokenizer().encode("flamethrower", add_special_tokens=False) == [_tokenizer().unk_token_id]


def test_the_chat_template_ends_the_assistants_turn_and_adds_a_generation_prompt():
    messages = [{"role": "user", "content": "take wax"}]
    prompt = _tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == "<bos> <user> take wax <assistant> "
    whole = [*messages, {"role": "assistant", "content": "Sorry"}]
    assert _tokenizer().apply_chat_template(whole, tokenize=False) == "<bos> <user> take wax <assistant> Sorry <eos>"


def test_the_model_has_the_special_tokens_of_the_tokenizer_and_three_quarters_of_a_million_parameters():
    tokenizer = build_tokenizer(build_world(seed=0))
    model = build_model(len(tokenizer), seed=0)
    assert model.num_parameters() == pytest.approx(0.75e6, rel=0.1)
    config = model.config
    special = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == special


def test_the_weights_depend_on_the_seed():
    first, again, other = (build_model(20, seed=seed).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_untrained_model_loads_with_its_tokenizer_and_an_existing_one_is_not_replaced(tmp_path):
    path = write_untrained(_world(), tmp_path / "base", seed=0)
    assert len(AutoTokenizer.from_pretrained(path)) == AutoModelForCausalLM.from_pretrained(path).config.vocab_size
    files = _files(path)
    assert write_untrained(_world(), tmp_path / "base", seed=1) == path
    assert _files(path) == files


def test_the_pretraining_config_has_the_seed_and_the_number_of_steps():
    config = pretraining_config(seed=7, max_steps=3)
    assert (config.seed, config.max_steps, config.method) == (7, 3, "vanilla")
    assert pretraining_config(seed=0).max_steps == 600


def test_pretraining_changes_the_weights_once(tmp_path):
    config = pretraining_config(seed=0, max_steps=2)  # the first step is warmup, with a rate of 0
    path = pretrain(_world(), tmp_path / "base", config=config)
    trained = AutoModelForCausalLM.from_pretrained(path).lm_head.weight
    assert not torch.equal(trained, AutoModelForCausalLM.from_pretrained(tmp_path / "untrained").lm_head.weight)
    files = _files(path)
    assert pretrain(_world(), tmp_path / "base", config=pretraining_config(seed=1, max_steps=1)) == path
    assert _files(path) == files
