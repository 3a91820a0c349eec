import importlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

import checked_types
from derta.engines.batching import pad, select_rows, token_batches

lengths_lists = st.lists(st.integers(1, 50), max_size=40)


@given(lengths=lengths_lists, budget=st.integers(1, 200), max_rows=st.integers(1, 10))
def test_every_row_is_in_one_batch_and_no_batch_is_over_its_budget(lengths, budget, max_rows):
    batches = list(token_batches(lengths, max_batch_tokens=budget, max_rows=max_rows))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


@given(lengths=lengths_lists)
def test_the_longest_come_first(lengths):
    order = [i for batch in token_batches(lengths, max_batch_tokens=100, max_rows=4) for i in batch]
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("side", "ids", "mask"),
    [
        ("left", [[7, 8, 9], [0, 0, 5]], [[1, 1, 1], [0, 0, 1]]),
        ("right", [[7, 8, 9], [5, 0, 0]], [[1, 1, 1], [1, 0, 0]]),
    ],
)
def test_rows_are_padded_to_the_longest_and_padding_is_masked(side, ids, mask):
    padded = pad([[7, 8, 9], [5]], side=side, device=torch.device("cpu"))
    assert (padded.input_ids.tolist(), padded.mask.tolist()) == (ids, mask)


@pytest.mark.parametrize("name", checked_types.CHECKED)
def test_each_module_with_checked_tensors_exists(name):
    assert importlib.import_module(name).__spec__.loader is not None


def test_tensors_with_wrong_axes_raise_a_type_error_in_tests():
    mask = pad([[1, 2], [3]], side="left", device=torch.device("cpu")).mask
    with pytest.raises(TypeCheckError, match="mask"):
        select_rows([0], mask=mask[0], cache=None)
    with pytest.raises(TypeCheckError, match="mask"):
        select_rows([0], mask=mask.float(), cache=None)
