import math
from types import SimpleNamespace

import pytest
import torch

from derta.data.rows import TERMS
from derta.train.checkpoints import NonFiniteLossError
from derta.train.loss import LabelLoss
from derta.train.terms import (
    NUM_SUMS,
    by_term,
    check_norm,
    evaluation_metrics,
    evaluation_sums,
    format_loss_error,
    term_sums,
)

# a helpful label with a loss of 6, no safe label, four RTO labels with losses of 2 and refusal probabilities of 0.25
OUTPUTS = LabelLoss(
    loss=torch.tensor(14.0),
    loss_sums=torch.tensor([6.0, 0.0, 8.0, 0.0, 0.0]),
    counts=torch.tensor([1.0, 0.0, 4.0, 0.0, 0.0]),
    refusal_sum=torch.tensor(1.0),
)
NO_ANCHOR = {"anchor_sum": None, "anchor_count": None}


def test_means_are_by_term_and_terms_without_labels_are_left_out():
    assert TERMS == ("helpful", "safe", "rto", "completion", "counter")
    assert by_term(term_sums(OUTPUTS).tolist()) == {"loss_helpful": 6, "loss_rto": 2, "refusal_probability": 0.25}


def test_sums_of_several_micro_batches_give_the_means_over_all_labels():
    other = LabelLoss(
        loss=torch.tensor(4.0),
        loss_sums=torch.tensor([0.0, 4.0, 0.0, 9.0, 5.0]),
        counts=torch.tensor([0.0, 2.0, 0.0, 3.0, 1.0]),
        refusal_sum=torch.tensor(0.0),
    )
    means = by_term((term_sums(OUTPUTS) + term_sums(other)).tolist())
    assert means == {
        "loss_helpful": 6, "loss_safe": 2, "loss_rto": 2, "loss_completion": 3, "loss_counter": 5,
        "refusal_probability": 0.25,
    }  # fmt: skip


def test_a_custom_loss_without_sums_logs_no_terms_and_no_refusal_probability():
    sums = term_sums(
        SimpleNamespace(loss=torch.tensor(3.0), loss_sums=None, counts=None, refusal_sum=None, **NO_ANCHOR)
    )
    assert by_term(sums.tolist()) == {}
    only_counts = SimpleNamespace(
        loss=torch.tensor(3.0), loss_sums=None, counts=OUTPUTS.counts, refusal_sum=None, **NO_ANCHOR
    )
    assert "refusal_probability" not in by_term(term_sums(only_counts).tolist())


def test_the_anchor_is_a_mean_over_its_positions():
    outputs = LabelLoss(**(OUTPUTS | {"anchor_sum": torch.tensor(3.0), "anchor_count": torch.tensor(2.0)}))
    assert by_term((term_sums(outputs) + term_sums(OUTPUTS)).tolist())["loss_anchor"] == 1.5


def test_an_evaluation_divides_the_loss_by_all_items_and_prefixes_its_metrics():
    sums = evaluation_sums(OUTPUTS, torch.tensor(5)) + evaluation_sums(OUTPUTS, torch.tensor(2))
    metrics = evaluation_metrics(sums.tolist(), prefix="test")
    assert metrics["test_loss"] == 4  # 28 / 7
    assert metrics["test_loss_rto"] == 2
    assert set(metrics) == {"test_loss", "test_loss_helpful", "test_loss_rto", "test_refusal_probability"}


def test_an_evaluation_without_items_has_a_loss_of_zero():
    empty = LabelLoss(
        loss=torch.tensor(0.0), loss_sums=torch.zeros(5), counts=torch.zeros(5), refusal_sum=torch.tensor(0.0)
    )
    assert evaluation_metrics(evaluation_sums(empty, torch.tensor(0)).tolist(), prefix="eval") == {"eval_loss": 0}
    assert evaluation_metrics([3.0, 1.0, *[0.0] * NUM_SUMS], prefix="eval") == {"eval_loss": 3}


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_an_error_except_in_fp16(norm):
    with pytest.raises(NonFiniteLossError, match=r"step 3: expected a finite gradient norm, got (nan|inf)"):
        check_norm(norm, args=SimpleNamespace(fp16=False), step=3)
    assert check_norm(norm, args=SimpleNamespace(fp16=True), step=3) is norm
    assert check_norm(None, args=SimpleNamespace(fp16=False), step=3) is None
    assert check_norm(0.5, args=SimpleNamespace(fp16=False), step=3) == 0.5


def test_a_loss_error_names_the_step_the_sums_and_the_rows():
    batch = {"input_ids": torch.zeros(2, 7), "row_ids": ["a", "b"]}
    message = format_loss_error(OUTPUTS, batch, 12)
    assert message.startswith("step 12: expected a finite loss, got 14.0 (sums by term {'helpful': 6.0")
    assert "14 tokens, rows a, b; lower the learning rate" in message
