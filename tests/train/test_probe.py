from math import ceil

import pytest

from derta.config import DpoSection, LoraSection, ModelSection, TrainSection
from derta.data.preferences import EncodedPair
from derta.train.dpo import dpo_arguments, pair_trainer
from derta.train.fit import build_trainer, fit
from derta.train.probe import Plan, Shape, _seconds, _Watch, plan, plan_pairs, probe

TRAIN = TrainSection(
    epochs=2, batch_size=8, micro_batch_size=4, learning_rate=1e-3, max_length=128, pack_tokens=128, sorry_dropout=0.5,
    logging_steps=1,
)  # fmt: skip
DPO = DpoSection(learning_rate=1e-3, epochs=2)


@pytest.fixture
def trainer_of(tmp_path, make_model_dir, make_tokenizer, small_data, refusal_ids):
    base = make_model_dir(initializer_range=0.05)

    def make(train=TRAIN, method="derta"):
        given = {
            "model": ModelSection(path=str(base)),
            "train": train,
            "tokenizer": make_tokenizer(),
            "instances": small_data(method),
            "refusal_ids": refusal_ids,
            "seed": 0,
        }
        return given, build_trainer(**given, checkpoints=tmp_path / "checkpoints")

    return make


@pytest.mark.parametrize(
    "changes",
    [{}, {"max_steps": 4}, {"epochs": 1}, {"micro_batch_size": 8}, {"pack_tokens": 0, "group_by_length": True}],
)
def test_a_plan_counts_what_the_training_then_does(trainer_of, tmp_path, changes):
    train = TRAIN.model_copy(update=changes)
    _, trainer = trainer_of(train)
    planned = plan(trainer)
    seen = []
    collator = trainer.data_collator
    trainer.data_collator = lambda rows: seen.append(rows) or collator(rows)
    trainer.train()
    assert planned.steps == trainer.state.global_step
    assert planned.micro_batches <= len(seen) <= planned.micro_batches + 1  # the loader is one ahead
    seen = seen[: planned.micro_batches]
    tokens = sum(len(row.input_ids) for rows in seen for row in rows)
    # the first epoch's harmful prefixes stand for all epochs'
    assert planned.tokens == pytest.approx(tokens, rel=0.1)
    assert planned.rows == sum(len(rows) for rows in seen)
    assert 0 <= planned.padding < 0.5


def test_a_budget_of_tokens_makes_the_steps(trainer_of):
    _, by_rows = trainer_of()
    planned = plan(by_rows)
    budget = ceil(planned.tokens / 2 / 5)  # two epochs, five steps each
    _, by_tokens = trainer_of(TRAIN.model_copy(update={"step_tokens": budget}))
    assert plan(by_tokens).steps == pytest.approx(10, abs=2)
    by_tokens.train()
    assert by_tokens.state.global_step == plan(by_tokens).steps


def test_a_probe_gives_a_time_and_a_peak_and_leaves_nothing(trainer_of, tmp_path):
    given, trainer = trainer_of()
    estimated = probe(trainer, plan(trainer))
    assert estimated.seconds > 0
    assert estimated.peak_bytes > 10**7
    assert not (tmp_path / "checkpoints").exists() or not any((tmp_path / "checkpoints").iterdir())
    out = fit(**given, out=tmp_path / "model")  # a run beside it is not disturbed
    assert (out / "train_log.json").exists()


@pytest.fixture
def pair_trainer_of(tmp_path, vanilla, make_tokenizer):
    """Eleven pairs, the longest by far among them once."""
    pairs = [
        EncodedPair(f"{i}", (5, 6), (7,) * (40 if i == 3 else 4), (5, 6), (8,) * (3 + i)) for i in range(11)
    ]  # fmt: skip

    def make(train=TRAIN, dpo=DPO, start=None):
        model = ModelSection(path=str(vanilla))
        arguments = dpo_arguments(train, dpo, seed=0, folder=tmp_path / "checkpoints")
        tokenizer = make_tokenizer()
        return pair_trainer(
            model=model, train=train, dpo=dpo, tokenizer=tokenizer, pairs=pairs, start=start, arguments=arguments
        )

    return make


def seen_by(trainer):
    """The batches that the trainer's collator will have made."""
    seen = []
    collator = trainer.data_collator

    def collate(pairs):
        seen.append(pairs)
        return collator(pairs)

    trainer.data_collator = collate
    return seen


@pytest.mark.parametrize("changes", [{}, {"max_steps": 4}, {"precompute_reference": True}])
def test_a_plan_of_pairs_counts_what_dpo_then_does(pair_trainer_of, changes):
    trainer = pair_trainer_of(dpo=DPO.model_copy(update=changes))
    planned = plan_pairs(trainer)
    seen = seen_by(trainer)
    trainer.train()
    assert planned.steps == trainer.state.global_step
    if not changes.get("max_steps"):  # two epochs, all pairs twice
        pairs = [pair for batch in seen for pair in batch]
        assert planned.rows == len(pairs) == 22
        sides = [len(pair[f"{side}_ids"]) for pair in pairs for side in ("chosen", "rejected")]
        assert planned.labels == sum(sides)
        assert planned.tokens == sum(sides) + 2 * 2 * 22
    assert 0 < planned.padding < 0.9


@pytest.mark.parametrize("lora", [None, LoraSection(r=4, lora_alpha=8)])
def test_a_probe_of_pairs_sees_the_longest_and_trains_on_the_recipes_own_model(pair_trainer_of, lora):
    trainer = pair_trainer_of(train=TRAIN.model_copy(update={"lora": lora}))
    planned = plan_pairs(trainer)
    seen = seen_by(trainer)
    estimated = probe(trainer, planned)
    assert estimated.seconds > 0
    assert estimated.peak_bytes > 10**7
    assert any(len(pair["chosen_ids"]) == 40 for batch in seen for pair in batch)
    assert trainer.state.global_step == 4


def test_time_grows_with_the_multiplications_and_warming_up_comes_once():
    def shape(padded, scored):
        return Shape([], padded, padded, scored, scored)

    surveyed = (shape(10, 1), shape(30, 3))
    planned = Plan(rows=0, steps=50, micro_batches=100, tokens=0, labels=0, padding=0.0, surveyed=surveyed)
    watch = _Watch()
    watch.steps, watch.updates = [9.0, 5.0, 5.0], [2.0, 1.0, 1.0]
    # weights 2 and 5: a shape of 10 and 1 costs 25, so 8 s for 2 x 25 + 2 x 75 are 0.04 s a unit
    seconds = _seconds(planned, surveyed, (*surveyed, *surveyed), watch=watch, weights=(2, 5))
    first_beyond = 9 - 0.04 * 100 - 1
    assert seconds == pytest.approx(first_beyond + 0.04 * 50 * 100 + 50 * 1)
