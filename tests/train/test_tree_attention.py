"""Trees read back, and train, as the rows that they are made of."""

import json
from copy import deepcopy
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_training import tune_job
from torch.nn.attention.flex_attention import create_mask, flex_attention
from transformers import Lfm2Config
from transformers.models.auto import AutoModelForCausalLM

from derta.config import LoraSection, RowConfig, parse_recipe
from derta.data.rows import IGNORE, TERMS, TrainRow, rto_row, safe_row
from derta.data.tree import TreeRow, tree_of
from derta.errors import ModelError, RecipeError
from derta.train import tree_attention as tree_module
from derta.train.collator import collate
from derta.train.dataset import RowDataset
from derta.train.loss import label_loss, use_label_loss
from derta.train.tree_attention import block_mask, check_trees, dense_mask, layer_windows, tree_mask, visible_nodes
from tolerances import assert_trained_alike, step_tolerance, sum_tolerance

VOCAB = 512
FAMILIES = ("llama", "gemma3", "qwen3", "mistral")
SLIDING_QWEN = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
EVEN = (1.0,) * len(TERMS)


@pytest.fixture(scope="module")
def families_of_rows(small_data):
    """Three triples' rows, one's cut to 40 tokens, each with k = 0, 3 (twice) and |r-hat|; two helpful rows alone."""
    found = small_data("derta", num_triples=3, num_examples=2)
    triples = [one.source for one in found if one.term == "rto"]
    families = [
        [
            rto_row(triple, max_length=max_length, sorry_dropout=0.5, rng=Random(max_length)),
            *(safe_row(triple, k=k, max_length=max_length) for k in (0, 3, len(triple.harmful_ids), 3)),
        ]
        for triple, max_length in zip(triples, (128, 128, 40), strict=True)
    ]
    dataset = RowDataset(found, config=RowConfig(), seed=0)
    return [*families, [dataset[0]], [dataset[1]]]


@pytest.fixture(scope="module")
def laid(families_of_rows):
    """The same rows: a tree for each triple, and the helpful rows as they are."""
    return [tree_of(rows) if len(rows) > 1 else rows[0] for rows in families_of_rows]


def flat(families):
    return [row for rows in families for row in rows]


# --- batches ---------------------------------------------------------------------------------------------------------


def labels_of(batch):
    """A batch's labels: the tokens that a position attends to by `ends`, target, term; weight and multiplicity."""
    width = batch["input_ids"].shape[1]
    found = {}
    names = ("label_positions", "targets", "terms", "weights", "multiplicity")
    for node, target, term, weight, times in zip(*(batch[name].tolist() for name in names), strict=True):
        b, i = divmod(node, width)
        seen = [j for j in range(i + 1) if i < int(batch["ends"][b, j])]
        assert batch["position_ids"][b, seen].tolist() == list(range(len(seen)))
        found[tuple(batch["input_ids"][b, seen].tolist()), target, TERMS[term]] = (pytest.approx(weight), times)
    assert len(found) == len(batch["label_positions"])
    return found


def expected_of(rows, *, weights=EVEN, by_row=False):
    found = {}
    for row in rows:
        places = [i for i, label in enumerate(row.labels) if label != IGNORE]
        weight = weights[TERMS.index(row.term)] / (len(places) if by_row else 1)
        for i in places:
            key = tuple(row.input_ids[:i]), row.labels[i], row.term
            known, times = found.get(key, (0.0, 0))
            found[key] = known + weight, times + 1
    return found


@pytest.mark.parametrize("capacity", [0, 64, 512])
def test_a_batch_of_trees_and_rows_teaches_what_the_rows_alone_teach(families_of_rows, laid, capacity):
    batch = collate(laid, capacity=capacity, pad_id=7)
    assert labels_of(batch) == expected_of(flat(families_of_rows))
    assert int(batch["items"]) == sum(label != IGNORE for row in flat(families_of_rows) for label in row.labels)
    assert len(batch["targets"]) < int(batch["items"])  # the two branches with k = 3 are one
    assert batch["row_ids"] == [row.id for row in laid]


def test_by_row_every_row_laid_into_a_tree_counts_as_one_row(families_of_rows, laid):
    weights = (1.0, 2.0, 0.5)
    batch = collate(laid, capacity=512, pad_id=0, term_weights=weights, by_row=True)
    assert labels_of(batch) == expected_of(flat(families_of_rows), weights=weights, by_row=True)
    assert int(batch["items"]) == len(flat(families_of_rows)) == 17


def test_padding_beside_a_tree_sees_itself_alone_and_is_seen_by_nobody(laid):
    batch = collate(laid, capacity=0, pad_id=0)
    mask = dense_mask(
        visible_nodes(batch["ends"], batch["position_ids"], window=None),
        num_bins=len(laid),
        num_tokens=batch["ends"].shape[1],
        device=torch.device("cpu"),
    )[:, 0]
    shortest = min(range(len(laid)), key=lambda b: len(laid[b].input_ids))
    b = [row.id for row in sorted(laid, key=lambda row: -len(row.input_ids))].index(laid[shortest].id)
    padding = slice(len(laid[shortest].input_ids), None)
    assert torch.equal(mask[b, padding, padding], torch.eye(mask.shape[1], dtype=torch.bool)[padding, padding])
    assert not mask[b, padding, : padding.start].any()
    assert not mask[b, : padding.start, padding].any()


def test_a_batch_without_trees_carries_no_ends(families_of_rows):
    assert "ends" not in collate(flat(families_of_rows), capacity=64, pad_id=0)


def test_bins_are_as_wide_as_the_longest_tree_that_they_are_padded_to_anyway(laid):
    longest = max(len(row.input_ids) for row in laid)
    batch = collate(laid, capacity=longest // 2, pad_id=0)
    assert batch["input_ids"].shape == collate(laid, capacity=longest, pad_id=0)["input_ids"].shape


# --- masks -----------------------------------------------------------------------------------------------------------

random_trees = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=9), min_size=1, max_size=5).map(
    lambda found: tree_of([TrainRow("r", "safe", ids, [IGNORE] * len(ids)) for ids in found])
)


@given(trees=st.lists(random_trees, min_size=1, max_size=3), window=st.none() | st.integers(1, 6))
def test_a_node_sees_its_ancestors_within_the_window_and_nothing_else(trees, window):
    batch = collate(trees, capacity=512, pad_id=0)
    ends, positions = batch["ends"], batch["position_ids"]
    ((num_bins, num_tokens), device) = (ends.shape, ends.device)
    mask = dense_mask(
        visible_nodes(ends, positions, window=window), num_bins=num_bins, num_tokens=num_tokens, device=device
    )
    ancestors: list[list[int]] = []  # by following depths back, with no use of `ends`
    for i, depth in enumerate(positions[0].tolist()):
        parent = next((j for j in reversed(range(i)) if positions[0, j] == depth - 1), None) if depth else None
        ancestors.append([*(ancestors[parent] if parent is not None else []), i])
    for i, seen in enumerate(ancestors):
        assert mask[0, 0, i].nonzero().flatten().tolist() == seen[-(window or len(seen)) :]


@pytest.mark.equality
@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_flex_attention_sees_what_sdpa_sees(laid, window):
    batch = collate(laid, capacity=256, pad_id=0)
    visible = visible_nodes(batch["ends"], batch["position_ids"], window=window)
    (num_bins, num_tokens), device = batch["ends"].shape, torch.device("cpu")
    dense, block = (
        make(visible, num_bins=num_bins, num_tokens=num_tokens, device=device) for make in (dense_mask, block_mask)
    )
    assert torch.equal(create_mask(block.mask_mod, num_bins, 1, num_tokens, num_tokens, device="cpu"), dense)
    q, k, v = torch.randn(3, num_bins, 2, num_tokens, 8, generator=torch.Generator().manual_seed(0))
    ours = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=dense)
    tolerance = sum_tolerance(torch.float32, q.shape[-1] + num_tokens, float(v.abs().max()))
    assert torch.allclose(flex_attention(q, k, v, block_mask=block), ours, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("family", "settings", "windows"),
    [
        ("llama", {}, {"full_attention": None}),
        ("mistral", {}, {"sliding_attention": 16}),
        ("mistral", {"sliding_window": None}, {"full_attention": None}),
        ("qwen3", {}, {"full_attention": None}),
        ("qwen3", SLIDING_QWEN, {"full_attention": None, "sliding_attention": 16}),
        ("gemma3", {}, {"full_attention": None, "sliding_attention": 16}),
    ],
)
def test_windows_are_read_from_the_config_by_kind_of_layer(make_model, family, settings, windows):
    config = make_model(family, vocab_size=96, **settings).config
    assert layer_windows(config) == windows
    mask = tree_mask(config, ends=torch.full((2, 5), 5), position_ids=torch.arange(5).repeat(2, 1))
    assert (set(mask) if isinstance(mask, dict) else {"one"}) == (set(windows) if len(windows) > 1 else {"one"})


# --- losses and gradients --------------------------------------------------------------------------------------------


def step(model, rows, *, capacity, term_weights=EVEN, by_row=False):
    """The mean loss by term, the loss, and its gradients."""
    use_label_loss(model, refusal_ids=(3, 4))
    model.zero_grad()
    batch = collate(rows, capacity=capacity, pad_id=0, term_weights=term_weights, by_row=by_row)
    found = label_loss(model, batch)
    total = found.loss / batch["items"]
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return [*found.loss_sums.tolist(), *found.counts.tolist(), float(found.refusal_sum), total.item()], gradients


def assert_same_step(ours, expected, *, tolerance=step_tolerance()):  # noqa: B008
    """Losses equal to `tolerance`, gradients to `tolerance` of the largest."""
    assert ours[0] == pytest.approx(expected[0], rel=tolerance)
    largest = max(float(grad.abs().max()) for grad in expected[1].values())
    assert max(float((ours[1][name] - grad).abs().max()) for name, grad in expected[1].items()) <= tolerance * largest


@pytest.mark.equality
@pytest.mark.parametrize(
    ("family", "settings"), [*((family, {}) for family in FAMILIES), ("qwen3", SLIDING_QWEN), ("gpt2", {})]
)
@pytest.mark.parametrize("counting", [{}, {"term_weights": (1.0, 2.0, 0.5), "by_row": True}])
def test_trees_have_the_loss_and_gradients_of_their_rows_packed_or_not(  # noqa: PLR0917
    make_model, families_of_rows, laid, family, settings, counting
):
    model = make_model(family, vocab_size=VOCAB, **settings)
    alone = step(deepcopy(model), flat(families_of_rows), capacity=0, **counting)
    for rows, capacity in ((flat(families_of_rows), 512), (laid, 0), (laid, 512)):
        assert_same_step(step(deepcopy(model), rows, capacity=capacity, **counting), alone)


@pytest.mark.equality
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_trees_go_through_gradient_checkpointing(make_model, laid, family):
    model = make_model(family, vocab_size=VOCAB).train()
    plain = step(deepcopy(model), laid, capacity=512)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same_step(step(model, laid, capacity=512), plain)


NOT_COMPILED = pytest.mark.xfail(
    torch.__version__ < "2.12", reason="torch 2.11 does not compile flex_attention on trees with a sliding window",
    strict=False,
)  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "family",
    [pytest.param(one, marks=NOT_COMPILED if one in ("gemma3", "mistral") else []) for one in FAMILIES],
)
def test_on_a_gpu_flex_attention_trains_trees_as_sdpa_does(make_model, laid, family):
    torch.compiler.reset()  # a function that was compiled for too many shapes is not compiled again
    found = []
    for attention in ("sdpa", "flex_attention"):
        model = make_model(family, vocab_size=VOCAB, attn_implementation=attention).cuda()
        check_trees(model, max_length=64)
        use_label_loss(model, refusal_ids=(3, 4))
        batch = collate(laid, capacity=512, pad_id=0)
        inputs = {name: x.cuda() for name, x in batch.items() if name not in {"row_ids", "items"}}
        loss = model(**inputs).loss / len(batch["targets"])
        loss.backward()
        found.append(([float(loss.detach())], {name: p.grad for name, p in model.named_parameters()}))
    assert_same_step(*found, tolerance=1e-2)  # flex_attention may multiply in TF32; a wrong mask is far off


LORA = LoraSection(r=4, lora_alpha=8, lora_dropout=0.0)


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "method", "settings"),
    [
        ("llama", "derta", {}),
        ("llama", "rto", {"normalization": "row"}),
        (
            "gemma3",
            "derta",
            {"lora": LoraSection(r=4, lora_alpha=8, lora_dropout=0.0), "activation_checkpointing": True},
        ),
    ],
)
def test_a_run_on_trees_ends_with_the_parameters_of_a_run_on_separate_rows(  # noqa: PLR0917
    tmp_path, make_model_dir, make_tokenizer, small_data, family, method, settings
):
    base = make_model_dir(kind=family, initializer_range=0.05)

    def run(*, trees):
        # a step of all the data, for a step's items are trees in one run and rows in the other
        own = {name: value for name, value in settings.items() if name != "lora"}
        train = {
            "max_steps": 3, "global_batch_size": 64, "per_device_train_batch_size": 8, "learning_rate": 1e-3,
            "max_length": 64, "pack_tokens": 128, "sorry_dropout": 0.5, "logging_steps": 1, "branches_per_triple": 3,
            "tree_rows": trees, **own,
        }  # fmt: skip
        out = tune_job(
            model=str(base), settings=train, tokenizer=make_tokenizer(), data=small_data(method),
            lora=settings.get("lora"), out=tmp_path / f"trees-{trees}",
        )  # fmt: skip
        log = [entry for entry in json.loads((out / "train_log.json").read_text()) if "loss" in entry]
        name = "adapter_model.safetensors" if "lora" in settings else "model.safetensors"
        return load_file(out / name), [[entry[key] for key in entry if key.startswith("loss")] for entry in log]

    (ours, our_log), (expected, log) = run(trees=True), run(trees=False)
    assert len(log) == 3
    assert our_log == [pytest.approx(losses, abs=2e-4) for losses in log]
    assert_trained_alike(ours, expected, learning_rate=1e-3, steps=3)


def test_a_data_set_of_trees_counts_triples_and_knows_their_lengths_in_every_epoch(small_data):
    given_instances = small_data("derta", num_triples=5, num_examples=3)
    dataset = RowDataset(given_instances, config=RowConfig(branches_per_triple=4, tree_rows=True), seed=0)
    assert len(dataset) == 3 + 5
    for epoch in range(2):
        drawn = [dataset[epoch, index] for index in range(len(dataset))]
        assert [isinstance(row, TreeRow) for row in drawn] == [False] * 3 + [True] * 5
        assert [dataset.length(epoch, index) for index in range(len(dataset))] == [len(row.input_ids) for row in drawn]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [64, 32, 15])
@pytest.mark.parametrize(
    ("family", "settings"), [*((family, {}) for family in FAMILIES), ("qwen3", SLIDING_QWEN), ("gpt2", {})]
)
def test_architectures_that_read_trees_as_their_rows_may_train_on_them(make_model, family, settings, max_length):
    model = make_model(family, vocab_size=96, **settings).train()
    check_trees(model, max_length=max_length)
    assert model.training


def test_eager_attention_would_add_the_mask_to_its_scores_and_is_refused(make_model):
    model = make_model("llama", vocab_size=96, attn_implementation="eager")
    with pytest.raises(ModelError, match=r"attention by sdpa or flex_attention, got eager .* set `attn_impl"):
        check_trees(model, max_length=64)


def test_layers_that_are_no_attention_are_refused(make_model):
    config = Lfm2Config(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention"], bos_token_id=None, eos_token_id=None,
        pad_token_id=None,
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"full or sliding-window attention, got conv in Lfm2Config; set `train\.tree"):
        check_trees(AutoModelForCausalLM.from_config(config), max_length=64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_reads_a_tree_otherwise_than_its_rows_is_refused(make_model, dtype):
    model = make_model("gemma3", vocab_size=96, use_bidirectional_attention=True).to(dtype)
    with pytest.raises(
        ModelError, match=r"Gemma3ForCausalLM to give the same states for a tree .*; set `train.tree_rows: fal"
    ):
        check_trees(model, max_length=64)


def test_a_window_that_is_not_known_is_found_out(make_model, monkeypatch):
    monkeypatch.setattr(tree_module, "layer_windows", lambda config: {"full_attention": None})
    with pytest.raises(ModelError, match="got states that differ by"):
        check_trees(make_model("mistral", vocab_size=96), max_length=64)


def test_a_mask_that_the_model_does_not_support_is_refused_in_one_line(make_model, monkeypatch):
    monkeypatch.setattr(tree_module, "layer_windows", lambda config: {"full_attention": None, "sliding_attention": 16})
    with pytest.raises(
        ModelError, match="LlamaForCausalLM does not support the mask that its config requires"
    ) as refused:
        check_trees(make_model("llama", vocab_size=96), max_length=64)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"tree_rows": True, "reference": True}, "reference`: the released code"),
        ({"branches_per_triple": 2, "reference": True}, "reference`: the released code"),
        (
            {"tree_rows": True, "attn_implementation": "eager"},
            "sdpa or flex_attention, got eager",
        ),
        ({"branches_per_triple": 0}, "train.branches_per_triple"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(train, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(
            {"title": "t", "model": {"path": "m"}, "data": {"triples": [], "helpful": []}, "train": train}, where="r"
        )
