"""Limits of a model are checked for training as for generation: embeddings, positions, attention, finite weights."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer
from transformers.models.auto import AutoModelForCausalLM

from derta.config import RowConfig, load_recipe
from derta.data.encoding import EncodedExample
from derta.data.rows import Instance, draw_row, max_tokens
from derta.data.triple_encoding import EncodedTriple
from derta.errors import DataError
from derta.pipeline.run import run
from small_run import small_recipe

TRAIN = {
    "max_steps": 2, "global_batch_size": 4, "per_device_train_batch_size": 4, "max_length": 96, "pack_tokens": 0,
    "num_threads": 1, "learning_rate": 1e-3,
}  # fmt: skip


def last_line(text):
    return text.strip().splitlines()[-1]


# --- the embeddings --------------------------------------------------------------------------------------------------


@pytest.fixture
def pad_beyond(make_model_dir, tmp_path):
    """A model whose tokenizer got [PAD] without a resize of the embeddings, as old fine-tuning scripts left it."""
    folder = shutil.copytree(make_model_dir(tokenizer={"pad": False}), tmp_path / "pad_beyond")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().num_embeddings
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["gnu"])
    assert tokenizer.pad_token_id == rows
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pack_tokens", [0, 128])
def test_a_padding_token_without_an_embedding_trains_as_one_with_it(
    derta, tmp_path, pad_beyond, make_model_dir, pack_tokens
):
    weights = {}
    for name, model in (("beyond", pad_beyond), ("plain", make_model_dir(tokenizer={"pad": False}))):
        (tmp_path / name).mkdir()
        recipe = small_recipe(tmp_path / name, model, train=TRAIN | {"pack_tokens": pack_tokens})
        result = derta("train", recipe, "--method", "derta", "--out", tmp_path / name / "model")
        assert result.code == 0, result
        weights[name] = load_file(tmp_path / name / "model/model.safetensors")
    AutoModelForCausalLM.from_pretrained(tmp_path / "beyond/model")
    assert all(torch.equal(weights["beyond"][key], weights["plain"][key]) for key in weights["plain"])


def test_a_whole_run_works_with_a_padding_token_without_an_embedding(derta, tmp_path, pad_beyond):
    pytest.importorskip("trl")
    changes = {"methods": ["vanilla", "dpo"], "train": TRAIN, "evaluate": []}
    recipe = small_recipe(tmp_path, pad_beyond, **changes, method_settings={"dpo": {"max_steps": 1}})
    result = derta("run", recipe, "--out", tmp_path / "run")
    assert result.code == 0, result


def test_generation_names_a_prompt_with_a_token_without_an_embedding(derta, tmp_path, pad_beyond):
    """A text that spells a special token, such as [PAD], is not encoded as that token."""
    prompts = tmp_path / "prompts.jsonl"
    texts = {"p": "Tea [PAD]?", "q": "Tea gnu?"}
    prompts.write_text(
        "".join(
            json.dumps({"id": key, "request_id": "r", "attack": "a", "mode": "raw", "text": text}) + "\n"
            for key, text in texts.items()
        )
    )
    words = ["generate", prompts, "--model", pad_beyond, "--out", tmp_path / "replies.jsonl", "--max-new-tokens", 2]
    result = derta(*words)
    assert result.code == 2
    assert "prompt 'q': expected tokens below the model's" in last_line(result.err)
    assert "'gnu'" in last_line(result.err)
    prompts.write_text(prompts.read_text().splitlines()[0] + "\n")
    assert derta(*words).code == 0


# --- positions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_row_beyond_the_positions_is_one_line_before_any_training(derta, tmp_path, make_model_dir, kind):
    recipe = small_recipe(tmp_path, make_model_dir(kind=kind, max_position_embeddings=40), train=TRAIN)
    result = derta("train", recipe, "--method", "derta", "--out", tmp_path / "model")
    assert result.code == 2
    assert "tokens are more than the model's 40 positions; set max_length to 40 or less" in last_line(result.err)
    again = derta("train", recipe, "--method", "derta", "--out", tmp_path / "model", "--set", "train.max_length=40")
    assert again.code == 0, again


def test_rows_that_fit_are_trained_whatever_max_length_is(derta, tmp_path, make_model_dir):
    train = TRAIN | {"max_length": 1024}
    recipe = small_recipe(tmp_path, make_model_dir(kind="gpt2"), train=train)
    assert derta("train", recipe, "--method", "derta", "--out", tmp_path / "model").code == 0


@pytest.mark.parametrize("methods", [["vanilla", "derta"], ["vanilla", "dpo"]])
def test_a_run_checks_the_rows_of_all_methods_before_it_trains_the_first(tmp_path, make_model_dir, methods):
    """Vanilla rows of these data have at most 27 tokens; rows with a harmful response have 38 and 47."""
    pytest.importorskip("trl")
    model = make_model_dir(kind="gpt2", max_position_embeddings=32)
    recipe = load_recipe(small_recipe(tmp_path, model, methods=methods, train=TRAIN, evaluate=[]))
    with pytest.raises(DataError, match="32 positions"):
        run(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("max_length", [32, 60, 1024])
def test_the_bound_of_a_rows_length_holds_in_every_epoch_and_is_reached(reference, max_length):
    config = RowConfig(max_length=max_length, reference=reference)
    triple = EncodedTriple(
        "t",
        prompt_ids=tuple(range(17)),
        harmful_prompt_ids=tuple(range(18)),
        safe_ids=tuple(range(5)),
        safe_spaced_ids=tuple(range(6)),
        safe_bare_ids=tuple(range(5)),
        harmful_ids=tuple(range(9)),
        closing_ids=(1,),
        refusal_ids=((4,),) * 9 + ((4,),),
        bare_positions=frozenset({3}),
        word_cuts=tuple(range(10)),
    )
    example = EncodedExample("e", prompt_ids=tuple(range(20)), response_ids=tuple(range(15)))
    items = [Instance(term, triple, prefix, 1) for term, prefix in (("safe", True), ("safe", False), ("rto", False))]
    for item in [*items, Instance("helpful", example, False, 0)]:
        drawn = {len(draw_row(item, config=config, seed=0, epoch=epoch).input_ids) for epoch in range(200)}
        bound = max_tokens(item, config=config)
        assert max(drawn) <= bound
        if not (reference and item.harmful_prefix):  # the released code never draws the last words
            assert max(drawn) == bound


# --- attention, weights, loggers -------------------------------------------------------------------------------------


def test_an_attention_that_the_architecture_lacks_is_named(derta, tmp_path, make_model_dir):
    from transformers import Gemma2ForCausalLM

    folder = shutil.copytree(make_model_dir(), tmp_path / "gemma2")
    config = json.loads((folder / "config.json").read_text())
    shape = {key: config[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    net = Gemma2ForCausalLM(Gemma2ForCausalLM.config_class(**shape, num_attention_heads=4, num_key_value_heads=2))
    assert not net._supports_sdpa, "choose another architecture for this test"
    net.save_pretrained(folder)
    recipe = small_recipe(tmp_path, folder, train=TRAIN)
    result = derta("train", recipe, "--method", "derta", "--out", tmp_path / "model")
    assert result.code == 2
    line = last_line(result.err)
    assert "Gemma2ForCausalLM does not support attention by sdpa; set attn_implementation to eager" in line
    words = ["train", recipe, "--method", "derta", "--out", tmp_path / "model"]
    again = derta(*words, "--set", "train.attn_implementation=eager")
    assert again.code == 0, again


@pytest.mark.parametrize("pack_tokens", [0, 128])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_are_named_before_any_check_of_the_architecture(
    derta, tmp_path, make_model_dir, pack_tokens, value
):
    folder = shutil.copytree(make_model_dir(), tmp_path / "damaged")
    net = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        net.model.layers[1].mlp.up_proj.weight[3, 4] = value
    net.save_pretrained(folder)
    recipe = small_recipe(tmp_path, folder, train=TRAIN | {"pack_tokens": pack_tokens})
    result = derta("train", recipe, "--method", "derta", "--out", tmp_path / "model")
    assert result.code == 2
    assert "expected finite weights, got NaN or infinity in model.layers.1.mlp.up_proj.weight" in last_line(result.err)


def test_a_logger_that_one_method_lacks_is_refused_before_the_first_is_trained(derta, tmp_path, tiny_model_dir):
    recipe = small_recipe(tmp_path, tiny_model_dir, method_settings={"derta": {"report_to": "wandb"}})
    result = derta("run", recipe, "--out", tmp_path / "run")
    assert result.code == 2
    assert "report_to`: expected an installed logger" in last_line(result.err)
    assert not (tmp_path / "run").exists()


# --- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train", "`train`: expected a mapping of keys, got nothing; add it, or remove the key if it is optional"),
        ("generate", "`generate`: expected a mapping of keys, got nothing"),
        ("data", "`data`: expected a mapping of keys, got nothing"),
        ("evaluate", "`evaluate`: expected a list, got nothing"),
        ("seeds", "`seeds`: expected a list, got nothing"),
        ("method_settings", "`method_settings`: expected a mapping of keys, got nothing"),
    ],
)
def test_a_key_without_a_value_is_named(derta, tmp_path, tiny_model_dir, key, message):
    recipe = small_recipe(tmp_path, tiny_model_dir)
    values = yaml.safe_load(recipe.read_text()) | {key: None}
    recipe.write_text(yaml.safe_dump(values))
    result = derta("run", recipe, "--out", tmp_path / "run")
    assert result.code == 2
    assert message in last_line(result.err)
