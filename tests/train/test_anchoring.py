from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from derta.data.rows import IGNORE, TrainRow
from derta.errors import DataError, RecipeError, RunError
from derta.train import anchoring, anchors
from derta.train.anchoring import without_adapters
from derta.train.anchors import FOLDER, benign_rows, content_key, plan_anchors
from derta.train.config import DertaConfig
from derta.train.dataset import RowDataset
from derta.train.estimate import plan, probe
from tolerances import logit_tolerance


@pytest.fixture
def trainer_of(train_losses, small_data):
    """A trainer with an anchor, trained for some steps."""

    def make(*, num_examples=8, **settings):
        rows = small_data("derta", num_examples=num_examples)
        return train_losses(rows, **({"anchor_weight": 1.0, "anchor_top_k": 5} | settings))

    return make


def log_of(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_the_stored_probabilities_are_those_of_the_base_at_each_label(trainer_of, monkeypatch):
    monkeypatch.setattr(anchors, "LABELS_PER_FILE", 40)
    trainer = trainer_of(steps=False, save_steps=2)
    base = trainer.model
    expected = {}
    with torch.no_grad():
        for index in benign_rows(trainer.train_dataset):
            row = trainer.train_dataset[0, index]
            places = [place - 1 for place, label in enumerate(row.labels) if label != IGNORE]
            expected[row.id] = base(input_ids=torch.tensor([row.input_ids])).logits[0][places]
    trainer.train()
    for epoch in range(3):
        for index in range(len(trainer.train_dataset)):
            row = trainer.train_dataset[epoch, index]
            if row.term != "helpful":
                assert row.anchor is None
                continue
            probs, ids = expected[row.id].softmax(dim=-1).topk(5)
            assert torch.equal(row.anchor.ids.long(), ids)
            assert torch.allclose(row.anchor.probs, probs, rtol=0, atol=logit_tolerance(expected[row.id]))
    assert len(expected) == 8


def test_the_first_loss_of_the_anchor_is_zero_and_then_it_grows(trainer_of):
    losses = log_of(trainer_of(), "loss_anchor")
    assert losses[0] == pytest.approx(0, abs=1e-4)
    assert losses[-1] > 1e-3


def test_without_an_anchor_nothing_is_stored_or_logged(trainer_of):
    trainer = trainer_of(anchor_weight=0)
    assert not log_of(trainer, "loss_anchor")
    assert not (Path(trainer.args.output_dir) / FOLDER).exists()


@pytest.mark.parametrize("settings", [{"pack_tokens": 0}, {"tree_rows": True}, {"normalization": "row"}])
def test_packing_trees_and_micro_batches_change_no_loss(trainer_of, settings):
    shared = {name: value for name, value in settings.items() if name == "normalization"}
    whole = trainer_of(**shared)
    parts = trainer_of(**settings, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    for name in ("loss_helpful", "loss_anchor"):
        if "tree_rows" not in settings:  # a tree counts as one row, so steps have other rows
            assert log_of(parts, name) == pytest.approx(log_of(whole, name), abs=2e-4)
    assert log_of(parts, "loss_anchor")[0] < 0.1


def test_a_heavy_anchor_keeps_the_model_at_the_base_on_benign_rows_while_rto_is_learned(trainer_of):
    settings = {"num_train_epochs": 6, "learning_rate": 3e-3, "helpful_weight": 0.0}
    free, anchored = trainer_of(anchor_weight=1e-6, **settings), trainer_of(anchor_weight=300.0, **settings)
    assert log_of(anchored, "loss_anchor")[-1] < 0.05 * log_of(free, "loss_anchor")[-1]
    rto = log_of(anchored, "loss_rto")
    assert rto[-1] < 0.5 * rto[0]


def test_a_resumed_training_reads_the_probabilities_of_its_start(trainer_of, tmp_path):
    whole = trainer_of(num_train_epochs=2, save_steps=2, save_total_limit=None)
    folder = Path(whole.args.output_dir)
    assert (folder / FOLDER).is_dir()
    resumed = trainer_of(steps=False, num_train_epochs=2, save_steps=2, output_dir=str(folder))
    stored = {path: path.stat().st_mtime_ns for path in (folder / FOLDER).iterdir()}
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert {path: path.stat().st_mtime_ns for path in (folder / FOLDER).iterdir()} == stored
    assert log_of(resumed, "loss_anchor")[-1] == pytest.approx(log_of(whole, "loss_anchor")[-1], abs=1e-4)


def test_a_resumed_training_without_the_probabilities_or_with_other_rows_is_an_error(trainer_of):
    folder = Path(trainer_of(save_steps=2).args.output_dir)
    for settings, message in (
        ({"anchor_top_k": 4}, "on the same rows and with anchor_top_k 4, got others"),
        ({"num_examples": 7}, "on the same rows"),
    ):
        with pytest.raises(RunError, match=message):
            trainer_of(steps=False, output_dir=str(folder), **settings).train(str(folder / "checkpoint-2"))
    path = folder / FOLDER / "00000.safetensors"
    for content in (path.read_bytes()[:-8], None):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RunError, match=r"00000.safetensors: expected the base model's probabilities next to"):
            trainer_of(steps=False, output_dir=str(folder)).train(str(folder / "checkpoint-2"))


def test_without_checkpoints_the_probabilities_are_deleted_after_training(trainer_of):
    trainer = trainer_of()
    assert not (Path(trainer.args.output_dir) / FOLDER).exists()
    assert log_of(trainer, "loss_anchor")[-1] > 1e-3
    trainer.train()  # again: the base is the model as it is now
    assert log_of(trainer, "loss_anchor")[0] == pytest.approx(0, abs=1e-4)


@pytest.mark.filterwarnings("ignore:.*save_embedding_layers.*:UserWarning")
def test_with_adapters_the_base_is_the_model_without_them(make_model, train_losses, small_data):
    def model():
        base = make_model("llama", vocab_size=512, initializer_range=0.05)
        torch.manual_seed(1)
        config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM", init_lora_weights=False)
        return get_peft_model(base, config)

    adapted = model()
    trainable = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    trainer = train_losses(
        small_data("vanilla"), model=adapted, anchor_weight=1.0, anchor_top_k=3, save_steps=2, num_train_epochs=1
    )
    row = trainer.train_dataset[0, benign_rows(trainer.train_dataset)[0]]
    places = [place - 1 for place, label in enumerate(row.labels) if label != IGNORE]
    ids = torch.tensor([row.input_ids])
    fresh = model().eval()
    with torch.no_grad():
        with fresh.disable_adapter():
            expected = fresh(input_ids=ids).logits[0][places].softmax(dim=-1).topk(3)
        with without_adapters(fresh):
            also = fresh(input_ids=ids).logits[0][places].softmax(dim=-1).topk(3)
        other = fresh(input_ids=ids).logits[0][places].softmax(dim=-1).topk(3)
    assert torch.equal(expected.values, also.values)
    assert torch.allclose(row.anchor.probs, expected.values, atol=1e-5)
    assert not torch.allclose(row.anchor.probs, other.values, atol=1e-3)
    assert [name for name, parameter in adapted.named_parameters() if parameter.requires_grad] == trainable
    assert log_of(trainer, "loss_anchor")[0] > 1e-3  # the adapter is not the base


def test_the_base_has_no_dropout(make_model, train_losses, small_data):
    settings = {"vocab_size": 512, "initializer_range": 0.05, "attention_dropout": 0.5}
    trainer = train_losses(
        small_data("vanilla", num_examples=4), model=make_model("llama", **settings).train(), anchor_weight=1.0,
        anchor_top_k=3, save_steps=2, max_steps=2,
    )  # fmt: skip
    row = trainer.train_dataset[0, benign_rows(trainer.train_dataset)[0]]
    places = [place - 1 for place, label in enumerate(row.labels) if label != IGNORE]
    with torch.no_grad():
        logits = make_model("llama", **settings).eval()(input_ids=torch.tensor([row.input_ids])).logits[0][places]
    assert torch.allclose(row.anchor.probs, logits.softmax(dim=-1).topk(3).values, atol=1e-5)


def a_row(name, tokens, *, term="helpful"):
    return TrainRow(name, term, tokens, [IGNORE, *tokens[1:]])


def dataset_of(*rows):
    return RowDataset(rows, config=DertaConfig("out"), seed=0)


def test_rows_are_divided_into_files_and_equal_rows_are_stored_once(monkeypatch):
    monkeypatch.setattr(anchors, "LABELS_PER_FILE", 3)
    rows = a_row("a", [1, 2]), a_row("b", [1, 2, 3], term="counter"), a_row("c", [1, 2]), a_row("d", [4, 5])
    dataset = dataset_of(*rows, a_row("e", [7, 8, 9], term="rto"))
    assert benign_rows(dataset) == [0, 1, 2, 3]
    found = plan_anchors(dataset, [0, 1, 2, 3])
    assert [file.rows for file in found.files] == [[1, 0], [3]]  # the longest of a file first
    assert [found.spans[content_key(row)] for row in rows] == [(0, 2, 3), (0, 0, 2), (0, 2, 3), (1, 0, 1)]


def test_a_benign_row_that_was_not_computed_is_an_error(tmp_path):
    store = anchors.AnchorStore(tmp_path, plan_anchors(dataset_of(a_row("a", [1, 2])), [0]))
    rto = a_row("b", [1, 3], term="rto")
    assert store.attach(rto) is rto
    with pytest.raises(DataError, match="row b: expected the same tokens in every epoch"):
        store.attach(a_row("b", [1, 3]))


def test_an_anchor_needs_benign_rows_and_a_vocabulary_of_its_size(trainer_of):
    with pytest.raises(DataError, match="anchor_weight: expected helpful or counter examples, got none"):
        trainer_of(num_examples=0)
    with pytest.raises(RecipeError, match="expected at most the vocabulary"):
        trainer_of(anchor_top_k=1000)


def test_a_probe_computes_the_rows_of_its_micro_batches_and_estimates_the_time_of_all(trainer_of, monkeypatch):
    trainer = trainer_of(steps=False, per_device_train_batch_size=1)
    computed, compute = [], anchoring.compute_anchors

    def spy(trainer, plan, *, folder):
        computed.extend(index for file in plan.files for index in file.rows)
        compute(trainer, plan, folder=folder)

    monkeypatch.setattr(anchoring, "compute_anchors", spy)
    probe(trainer, plan(trainer))
    every = benign_rows(trainer.train_dataset)
    assert 0 < len(computed) < len(every)
    (callback,) = (one for one in trainer.callback_handler.callbacks if isinstance(one, anchoring.AnchorCallback))
    tokens = sum(trainer.train_dataset.length(0, index) for index in every)
    assert callback.seconds == pytest.approx(tokens * callback._seconds_per_token)
    assert callback.seconds > 0
