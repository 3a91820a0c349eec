import math
from random import Random
from typing import get_type_hints

import beartype.door
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError, jaxtyped
from transformers import Lfm2Config
from transformers.models.auto import AutoModelForCausalLM

from derta.data.rows import IGNORE, TERMS, TrainRow, reference_dropout
from derta.data.train_row import Anchor
from derta.data.tree import tree_of
from derta.errors import ModelError
from derta.train.collator import ENTRY_NAMES, Batch, check_packing, collate, pack
from derta.train.gradients import InPlaceGradient


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30), capacity=st.integers(0, 80))
def test_every_row_is_packed_once_and_no_bin_overflows_unless_one_row_fills_it(lengths, capacity):
    bins = pack(lengths, capacity)
    assert sorted(row for members in bins for row in members) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in members) <= capacity or len(members) == 1 for members in bins)


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_packing_needs_fewer_than_twice_the_bins_that_the_tokens_fill(lengths):
    assert len(pack(lengths, 60)) <= max(1, 2 * sum(lengths) / 60)


def test_a_capacity_of_zero_gives_every_row_its_own_bin():
    assert sorted(pack([3, 5, 2], 0)) == [[0], [1], [2]]


def learned_by_document(batch):
    """Each document's tokens, with its labels put back to the places that they are the targets of, and its terms."""
    width = batch["input_ids"].shape[1]
    labels = torch.full_like(batch["input_ids"], IGNORE).flatten()
    labels[batch["label_positions"] + 1] = batch["targets"]
    terms = dict(zip((batch["label_positions"] + 1).tolist(), batch["terms"].tolist(), strict=True))
    found = []
    for b, (ids, positions) in enumerate(zip(batch["input_ids"].tolist(), batch["position_ids"].tolist(), strict=True)):
        starts = [i for i, position in enumerate(positions) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            assert positions[start:end] == list(range(end - start))
            places = range(b * width + start, b * width + end)
            of_document = {TERMS[terms[place]] for place in places if place in terms}
            found.append((tuple(ids[start:end]), tuple(labels[places.start : places.stop].tolist()), of_document))
    return found


def test_a_batch_holds_each_row_once_with_its_own_positions_labels_and_term(some_rows):
    batch = collate(some_rows, capacity=64, pad_id=0)
    found = learned_by_document(batch)
    for row in some_rows:
        assert found.count((tuple(row.input_ids), tuple(row.labels), {row.term})) == 1
    assert batch["row_ids"] == [row.id for row in some_rows]
    assert "attention_mask" not in batch  # transformers tells documents apart only while there is none


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_a_batch_has_the_types_and_axes_that_it_says(some_rows, rows):
    types = get_type_hints(Batch)
    batches = [collate(some_rows[:rows], capacity=64, pad_id=0)]
    num_labels = sum(label != IGNORE for label in some_rows[0].labels)
    anchored = some_rows[0]._replace(anchor=Anchor(torch.full((num_labels, 1), 5), torch.ones(num_labels, 1)))
    several = [*some_rows[:rows], anchored, tree_of(some_rows[:1])]
    batches.append(collate(several, capacity=64, pad_id=0, rto_margin=0.5, anchor_weight=1.0))
    for batch in batches:
        with jaxtyped("context"):  # so that an axis has one length
            assert not [name for name, tensor in batch.items() if not beartype.door.is_bearable(tensor, types[name])]
    assert batches[1].keys() == types.keys()


def test_tensors_of_other_axes_or_types_are_caught_in_tests():
    positions, batch = torch.zeros(3, dtype=torch.long), torch.ones(2, 4, dtype=torch.long)
    gradient = InPlaceGradient(torch.zeros(5, 2))
    gradient.add_rows(positions, torch.ones(3, 2))
    for rows, values in ((positions, torch.ones(2, 2)), (positions.float(), torch.ones(3, 2)), (batch, torch.ones(2))):
        with pytest.raises(TypeCheckError):
            gradient.add_rows(rows, values)


def test_padding_is_never_learned(some_rows):
    batch = collate(some_rows, capacity=0, pad_id=7)
    learned = sum(label != IGNORE for row in some_rows for label in row.labels)
    assert len(batch["targets"]) == int(batch["items"]) == learned
    assert int((batch["input_ids"][:, -1] == 7).sum()) >= len(some_rows) - 2


@pytest.mark.parametrize("trees", [False, True])
def test_a_rounded_length_adds_padding_and_moves_no_label(some_rows, trees):
    rows = [tree_of([row]) for row in some_rows] if trees else some_rows
    plain, rounded = (collate(rows, capacity=40, pad_id=0, multiple=multiple) for multiple in (1, 16))
    bins, width = plain["input_ids"].shape
    assert rounded["input_ids"].shape == (bins, -(-width // 16) * 16)
    assert width % 16
    for name in ("input_ids", "position_ids", *(["ends"] if trees else [])):
        assert torch.equal(rounded[name][:, :width], plain[name])
    assert not rounded["input_ids"][:, width:].any()
    assert not rounded["position_ids"][:, width:].any()
    places = [divmod(int(flat), width) for flat in plain["label_positions"]]
    found = [divmod(int(flat), rounded["input_ids"].shape[1]) for flat in rounded["label_positions"]]
    assert found == places
    assert torch.equal(rounded["targets"], plain["targets"])


def test_bins_are_filled_evenly_where_that_saves_padding():
    lengths = [60, 50, 40, 30, 20]
    assert [sum(lengths[i] for i in members) for members in pack(lengths, 130)] == [110, 90]
    assert sorted(sum(lengths[i] for i in members) for members in pack(lengths, 100)) == [100, 100]


def test_trees_and_rows_in_one_sequence_by_hand():
    rto = TrainRow("t", "rto", [1, 7, 8], [IGNORE, 5, 5])
    tree = tree_of([rto, TrainRow("t", "safe", [1, 7, 2, 3], [IGNORE, IGNORE, 2, 3])])
    rows = [tree, tree._replace(id="u"), TrainRow("h", "helpful", [4, 6], [IGNORE, 6])]
    batch = collate(rows, capacity=12, pad_id=0)
    assert batch["input_ids"].tolist() == [[1, 7, 8, 2, 3, 1, 7, 8, 2, 3, 4, 6]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 2, 3, 0, 1, 2, 2, 3, 0, 1]]
    assert batch["ends"].tolist() == [[5, 5, 3, 5, 5, 10, 10, 8, 10, 10, 12, 12]]
    assert batch["label_positions"].tolist() == [0, 1, 1, 3, 5, 6, 6, 8, 10]
    assert batch["targets"].tolist() == [5, 5, 2, 3, 5, 5, 2, 3, 6]
    assert batch["terms"].tolist() == [2, 2, 1, 1, 2, 2, 1, 1, 0]
    assert batch["weights"].tolist() == batch["multiplicity"].tolist() == [1.0] * 9
    assert int(batch["items"]) == 9
    assert batch["row_ids"] == ["t", "u", "h"]
    by_row = collate(rows, capacity=12, pad_id=0, by_row=True, term_weights=(1.0, 2.0, 3.0))
    assert by_row["weights"].tolist() == [1.5, 1.5, 1.0, 1.0, 1.5, 1.5, 1.0, 1.0, 1.0]  # two labels a row of a tree
    assert int(by_row["items"]) == 5
    padded = collate(rows, capacity=0, pad_id=0)
    assert padded["ends"].tolist() == [[5, 5, 3, 5, 5]] * 2 + [[2, 2, 3, 4, 5]]  # padding attends to itself
    assert padded["label_positions"].tolist() == [0, 1, 1, 3, 5, 6, 6, 8, 10]


def test_labels_that_rows_of_a_tree_share_are_one_label_with_the_sum_of_their_weights():
    row = TrainRow("t", "safe", [1, 2, 3], [IGNORE, 2, 3])
    longer = TrainRow("t", "safe", [1, 2, 3, 4], [IGNORE, 2, 3, 4])
    batch = collate([tree_of([row, longer])], capacity=0, pad_id=0, by_row=True, term_weights=(1.0, 6.0, 1.0))
    assert batch["targets"].tolist() == [2, 3, 4]
    assert batch["weights"].tolist() == [5.0, 5.0, 2.0]  # 6/2 + 6/3, and 6/3
    assert batch["multiplicity"].tolist() == [2.0, 2.0, 1.0]
    assert int(batch["items"]) == 2


def test_sets_of_targets_a_margin_and_an_anchor_by_hand():
    rto = TrainRow("r", "rto", [1, 7, 8], [IGNORE, 5, 5], alternatives={2: (4,)})
    anchor = Anchor(torch.tensor([[6, 2], [9, 3]]), torch.tensor([[0.5, 0.25], [0.75, 0.25]]))
    helpful = TrainRow("h", "helpful", [1, 6, 3], [IGNORE, 6, 3], anchor=anchor)
    tree = tree_of([rto, TrainRow("r", "safe", [1, 7, 4], [IGNORE, IGNORE, 4])])
    for first in (rto, tree):
        batch = collate([first, helpful], capacity=0, pad_id=0, rto_margin=0.5, anchor_weight=2.0, by_row=True)
        num_labels = len(batch["targets"])
        own = batch["terms"].tolist()
        floors = [math.log(2) if term == TERMS.index("rto") else -1 for term in own]
        assert batch["floors"].tolist() == pytest.approx(floors)
        # the second RTO label has two targets; each helpful label's target is one of the base's tokens
        found = sorted(
            (int(batch["label_positions"][label]), token, in_set, prob)
            for label, token, in_set, prob in zip(
                *(batch[name].tolist() for name in ("entry_labels", "entry_ids", "in_set", "base_probs")), strict=True
            )
            if own[label] != TERMS.index("safe")
        )
        width = batch["input_ids"].shape[1]
        assert found == [
            (0, 5, True, 0),
            (1, 4, True, 0),
            (1, 5, True, 0),
            (width, 2, False, 0.25),
            (width, 6, True, 0.5),
            (width + 1, 3, True, 0.25),
            (width + 1, 9, False, 0.75),
        ]
        assert batch["tails"].tolist()[-2:] == [0.25, 0]
        assert batch["anchor_weights"].tolist() == [0.0] * (num_labels - 2) + [1.0, 1.0]  # two labels of a row
        assert batch["entry_ids"].tolist() == sorted(batch["entry_ids"].tolist())


def test_without_sets_and_anchors_a_batch_has_no_entries(some_rows):
    batch = collate(some_rows, capacity=64, pad_id=0)
    assert not {"floors", *ENTRY_NAMES} & batch.keys()
    assert "floors" in collate(some_rows, capacity=64, pad_id=0, rto_margin=1.0)


def test_a_row_whose_labels_are_all_dropped_counts_as_a_row_without_labels():
    row = TrainRow("r", "safe", [1, 2, 3], [IGNORE] * 3)
    batch = collate([row], capacity=0, pad_id=0, by_row=True)
    assert (len(batch["targets"]), int(batch["items"])) == (0, 1)


def test_no_bin_is_shorter_than_the_longest_row():
    rows = [TrainRow(str(n), "helpful", [1] * n, [IGNORE] + [1] * (n - 1)) for n in (10, 4, 4)]
    assert collate(rows, capacity=6, pad_id=0)["input_ids"].shape == (2, 10)


def test_a_batch_without_rows_is_one_token_that_teaches_nothing():
    batch = collate([], capacity=64, pad_id=7)
    assert batch["input_ids"].tolist() == [[7]]
    assert len(batch["label_positions"]) == 0
    assert int(batch["items"]) == 0


def test_by_row_every_row_counts_the_same_however_many_labels_it_has(some_rows):
    batch = collate(some_rows, capacity=64, pad_id=0, term_weights=(1.0, 2.0, 3.0), by_row=True)
    assert int(batch["items"]) == len(some_rows)
    counts = {term: sum(row.term == term for row in some_rows) for term in TERMS}
    for index, weight in enumerate((1.0, 2.0, 3.0)):
        total = float(batch["weights"][batch["terms"] == index].sum())
        assert total == pytest.approx(weight * counts[TERMS[index]])


@pytest.mark.parametrize(("given", "length"), [(None, 24), (40, 40), (400, 400)])
def test_reference_dropout_is_drawn_over_a_length_that_is_given(given, length):
    for redraw in map(str, range(20)):
        row = TrainRow("r", "rto", [1] * 17, [IGNORE] + [5] * 16, redraw=redraw)
        batch = collate([row], capacity=0, pad_id=0, padded_length=given)
        expected = reference_dropout(row.labels, padded_length=length, redraw=redraw)
        assert (batch["label_positions"] + 1).tolist() == [i for i, label in enumerate(expected) if label != IGNORE]


@pytest.mark.parametrize("lengths", [(9, 16), (17, 3), (33, 40)])
def test_reference_dropout_is_drawn_over_the_longest_row_padded_to_a_multiple_of_eight(lengths):
    rows = [TrainRow(str(i), "rto", [5] * n, [IGNORE] + [3] * (n - 1), f"key{i}") for i, n in enumerate(lengths)]
    padded = -(-max(lengths) // 8) * 8
    found = learned_by_document(collate(rows, capacity=0, pad_id=0))
    for i, length in enumerate(lengths):
        # The released loop, written out: mark ceil(T / 20) of T places, mask the labels everywhere else.
        kept = set(Random(f"key{i}").sample(range(padded), max(1, -(-padded // 20))))
        expected = [3 if place in kept and place > 0 else IGNORE for place in range(length)]
        assert expected == reference_dropout(rows[i].labels, padded_length=padded, redraw=f"key{i}")
        assert ((5,) * length, tuple(expected)) in {(ids[:length], labels[:length]) for ids, labels, _ in found}


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3", "mistral", "gpt2"])
def test_architectures_that_keep_packed_rows_apart_may_pack(make_model, family):
    model = make_model(family, vocab_size=96).train()
    check_packing(model)
    assert model.training


def test_an_architecture_whose_rows_would_mix_may_not_pack():
    config = Lfm2Config(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention"], bos_token_id=None, eos_token_id=None,
        pad_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=r"Lfm2ForCausalLM to separate packed rows .* set `pack_tokens` to 0"):
        check_packing(model)


def test_a_model_whose_weights_are_elsewhere_is_not_checked(make_model):
    check_packing(make_model("llama", vocab_size=96).to("meta"))
