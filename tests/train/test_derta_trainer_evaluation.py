"""Evaluation by `DertaTrainer`: the loss of whole sets, by name, and of the best model."""

import pytest
import torch
from trainer_cases import EXAMPLES, READY, TRIPLES
from transformers.models.auto import AutoModelForCausalLM

from derta.errors import DataError, RunError


@pytest.mark.parametrize("size", [1, 3, 16])
def test_an_evaluation_is_the_loss_of_the_whole_set_however_it_is_cut_up(trainer_of, base, size):
    trainer = trainer_of(
        eval_dataset=READY * 3 + READY[:1], per_device_eval_batch_size=size, bf16=False, rto_weight=2.0
    )
    found = trainer.evaluate()
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([row["input_ids"]])).logits[0, 1:-1].log_softmax(-1) for row in READY]
    helpful = -sum(float(logits[0][i, token]) for i, token in enumerate((7, 8, 9)))
    rto = -sum(float(logits[1][i, 3]) for i in range(2))
    assert found["eval_loss_helpful"] == pytest.approx(helpful / 3, rel=1e-4)
    assert found["eval_loss_rto"] == pytest.approx(rto / 2, rel=1e-4)
    assert found["eval_loss"] == pytest.approx((4 * helpful + 2 * 3 * rto) / (4 * 3 + 3 * 2), rel=1e-4)
    assert 0 < found["eval_refusal_probability"] < 1


def test_several_sets_are_evaluated_by_their_names(trainer_of):
    trainer = trainer_of(eval_dataset={"one": READY, "two": READY[:1]}, eval_strategy="epoch", num_train_epochs=1)
    trainer.train()
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {"eval_one_loss_rto", "eval_two_loss_helpful"} <= logged
    assert "eval_two_loss_rto" not in logged


def test_it_evaluates_while_it_trains_and_keeps_the_best_model(trainer_of):
    trainer = trainer_of(
        eval_triples=TRIPLES[:2], eval_examples=EXAMPLES[:2], eval_strategy="steps", eval_steps=2, save_steps=2,
        load_best_model_at_end=True,
    )  # fmt: skip
    trainer.train()
    evaluated = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(evaluated) == 3
    assert trainer.state.best_metric == min(evaluated)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(evaluated), rel=1e-3)


def test_without_rows_to_evaluate_on_it_says_so_and_there_are_no_predictions(trainer_of):
    trainer = trainer_of()
    with pytest.raises(DataError, match="expected rows for evaluation, got none; pass eval_dataset="):
        trainer.evaluate()
    with pytest.raises(RunError, match=r"predict: .*no predictions; call evaluate\(\)"):
        trainer.predict(READY)
