import pytest
import torch
from one_step import REFUSALS, assert_close, gradients

from derta.data.rows import IGNORE
from derta.errors import ModelError
from derta.train.collator import collate
from derta.train.loss import model_inputs, use_label_loss

pytestmark = pytest.mark.equality


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gemma2"])
def test_gradients_added_in_place_are_those_of_autograd_over_micro_batches_and_steps(model_of, some_rows, name, tied):
    """Gemma scales its embeddings; some rows look nothing up that the others do, and one has no label."""
    halves = [some_rows[::2], some_rows[1::2]]
    stock, ours = (model_of(name, tie_word_embeddings=tied) for _ in range(2))
    use_label_loss(stock, refusal_ids=REFUSALS)
    use_label_loss(ours, refusal_ids=REFUSALS, in_place=True)
    for step in range(3):
        for model in (stock, ours):
            model.zero_grad()
            for rows in halves[: 1 + step]:
                model(**model_inputs(collate(rows, capacity=64, pad_id=0))).loss.backward()
        assert_close(gradients(ours), gradients(stock))
        with torch.no_grad():
            for model in (stock, ours):
                for weight in model.parameters():
                    weight.sub_(1e-3 * weight.grad)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1,)])
def test_a_micro_batch_without_labels_adds_nothing_to_the_gradients_in_place(model_of, some_rows, tied, order):
    without = [row._replace(labels=[IGNORE] * len(row.labels)) for row in some_rows]
    stock, ours = (model_of("llama", tie_word_embeddings=tied) for _ in range(2))
    use_label_loss(stock, refusal_ids=REFUSALS)
    use_label_loss(ours, refusal_ids=REFUSALS, in_place=True)
    for rows in [(some_rows, without)[i] for i in order]:
        for model in (stock, ours):
            model(**model_inputs(collate(rows, capacity=64, pad_id=0))).loss.backward()
    found, expected = gradients(ours), gradients(stock)
    assert set(found) == set(expected)
    if order == (1,):
        assert not any(grad.any() for grad in found.values())
    else:
        assert_close(found, expected)


def test_the_padding_rows_gradient_stays_zero_in_place(model_of, some_rows):
    model = model_of("llama", pad_token_id=5)
    rows = [row._replace(input_ids=[5, *row.input_ids[1:]]) for row in some_rows]
    use_label_loss(model, refusal_ids=REFUSALS, in_place=True)
    model(**model_inputs(collate(rows, capacity=64, pad_id=0))).loss.backward()
    grad = model.get_input_embeddings().weight.grad
    assert bool((grad[5] == 0).all())
    assert float(grad.abs().sum()) > 0


def test_a_loss_scaled_after_its_gradient_was_added_is_refused(model_of, some_rows):
    model = model_of("llama")
    use_label_loss(model, refusal_ids=REFUSALS, in_place=True)
    loss = model(**model_inputs(collate(some_rows, capacity=64, pad_id=0))).loss
    with pytest.raises(ModelError, match="expected an unscaled loss"):
        (2 * loss).backward()


def test_a_pass_without_a_backward_adds_nothing(model_of, some_rows):
    model = model_of("llama")
    use_label_loss(model, refusal_ids=REFUSALS, in_place=True)
    with torch.no_grad():
        assert float(model(**model_inputs(collate(some_rows, capacity=64, pad_id=0))).loss) > 0
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_autograd_computes_no_dense_gradient_of_the_embeddings(model_of, some_rows, tied):
    model = model_of("llama", tie_word_embeddings=tied)
    use_label_loss(model, refusal_ids=REFUSALS, in_place=True)
    weights = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    dense = []
    for weight in weights:
        weight.register_hook(lambda grad: dense.append(grad) if grad is not None else None)
    model(**model_inputs(collate(some_rows, capacity=64, pad_id=0))).loss.backward()
    assert dense == []
    assert all(float(weight.grad.abs().sum()) > 0 for weight in weights)


def test_a_frozen_embedding_gets_no_gradient(model_of, some_rows):
    model = model_of("llama", tie_word_embeddings=False)
    model.get_input_embeddings().weight.requires_grad_(False)
    use_label_loss(model, refusal_ids=REFUSALS, in_place=True)
    model(**model_inputs(collate(some_rows, capacity=64, pad_id=0))).loss.backward()
    assert model.get_input_embeddings().weight.grad is None
    assert model.get_output_embeddings().weight.grad is not None
