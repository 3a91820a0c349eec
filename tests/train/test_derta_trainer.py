"""`DertaTrainer` as a user's code has it: from names and triples to a saved, resumed, evaluated model."""

import json
import pickle
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from tiny_training import THINGS
from transformers import TrainerCallback, TrainingArguments
from transformers.models.auto import AutoModelForCausalLM

from derta.data.rows import IGNORE
from derta.errors import DataError, RecipeError, RunError
from derta.methods import METHODS, Method
from derta.records import Example, Message, Triple
from derta.train.config import DertaConfig
from derta.train.trainer import DertaTrainer
from forks import distributed, run_forks

SETTINGS = {
    "method": "derta", "sorry_dropout": 0.5, "bf16": True, "global_batch_size": 8, "per_device_train_batch_size": 4,
    "num_train_epochs": 2, "learning_rate": 1e-3, "max_length": 128, "logging_steps": 1, "warmup_steps": 0,
    "disable_tqdm": True,
}  # fmt: skip
TRIPLES = [
    Triple(query=f"How do I paint {thing}?", safe=f"Sorry, no {thing}.", harmful=f"Sure, {thing}. Step 1: wait.")
    for thing in THINGS[:6]
]
EXAMPLES = [
    Example(messages=(Message(role="user", content=f"And {t}?"), Message(role="assistant", content=f"A story of {t}.")))
    for t in THINGS[:6]
]
NO_REFUSAL = Triple(query="q", safe="I think not.", harmful="Sure.")
READY = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORE, IGNORE, 7, 8, 9], "term": "helpful"},
    {"input_ids": [5, 6, 7, 8], "labels": [IGNORE, IGNORE, 3, 3], "term": "rto"},
]
LONG = {"input_ids": [5] * 40, "labels": [IGNORE] + [5] * 39, "term": "helpful"}


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Count(TrainerCallback):
    def __init__(self, taken):
        self.taken = taken

    def on_step_end(self, args, state, control, **_):
        self.taken["steps"] += 1


@pytest.fixture(scope="module")
def base(make_model_dir):
    return str(make_model_dir(initializer_range=0.05))


@pytest.fixture
def trainer_of(base, tmp_path):
    def make(model=base, out="out", data=True, **given):
        names = {name for name in given if name not in SETTINGS and name in DertaConfig.__dataclass_fields__}
        settings = SETTINGS | {name: given.pop(name) for name in {*names, *(SETTINGS.keys() & given.keys())}}
        sets = {"triples": TRIPLES, "examples": EXAMPLES} if data else {}
        return DertaTrainer(model=model, args=DertaConfig(str(tmp_path / out), **settings), **(sets | given))

    return make


def test_balanced_trains_on_completion_and_counter_rows_and_logs_their_losses(trainer_of):
    given = {"method": "balanced", "eval_triples": TRIPLES[:2], "num_train_epochs": 1, "global_batch_size": 64}
    trainer = trainer_of(counter_examples=EXAMPLES[:2], per_device_train_batch_size=64, **given)
    assert Counter(trainer.train_dataset[0, i].term for i in range(len(trainer.train_dataset))) == {
        "helpful": 6, "safe": 6, "rto": 6, "completion": 15, "counter": 12,
    }  # fmt: skip
    trainer.train()
    assert {"loss_completion", "loss_counter", "refusal_probability"} <= trainer.state.log_history[0].keys()
    metrics = trainer.evaluate()
    assert "eval_loss_rto" in metrics
    assert not {"eval_loss_completion", "eval_loss_counter"} & metrics.keys()
    examples = {"eval_examples": EXAMPLES[:2], "eval_counter_examples": EXAMPLES[2:4]}
    metrics = trainer_of(counter_examples=EXAMPLES[:2], out="other", **given, **examples).evaluate()
    assert {"eval_loss_completion", "eval_loss_counter"} <= metrics.keys()


def test_balanced_without_counter_examples_is_an_error_that_names_them(trainer_of):
    with pytest.raises(DataError, match=r"counter_per_triple: expected counter examples, got none for 12 counter rows"):
        trainer_of(method="balanced")
    with pytest.raises(DataError, match=r"counter_examples: expected records \(Example\), got dict; .*load_examples"):
        trainer_of(method="balanced", counter_examples=[{}])


def test_a_name_and_triples_are_all_it_needs(trainer_of, tmp_path, base):
    trainer = trainer_of()
    trainer.train()
    assert {"loss_helpful", "loss_safe", "loss_rto", "refusal_probability"} <= set(trainer.state.log_history[0])
    trainer.save_model(tmp_path / "model")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert not torch.equal(saved.lm_head.weight, AutoModelForCausalLM.from_pretrained(base).lm_head.weight)
    assert (tmp_path / "model/tokenizer.json").exists()


def test_a_loaded_model_trains_as_its_folder_does_and_may_be_trained_again(trainer_of, base, make_tokenizer):
    loaded = AutoModelForCausalLM.from_pretrained(base)
    by_name, by_model = trainer_of(), trainer_of(loaded, processing_class=make_tokenizer(), out="other")
    for trainer in (by_name, by_model):
        trainer.train()
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (by_name, by_model)]
    assert losses[0] == losses[1]
    trainer_of(loaded, out="third").train()  # its tokenizer is that of the folder that it came from
    with torch.no_grad():
        assert loaded(input_ids=torch.tensor([[5, 6, 7]])).logits.shape[:2] == (1, 3)  # and is a stock model still


def test_adapters_are_trained_in_place_of_the_model(trainer_of, tmp_path):
    trainer = trainer_of(peft_config=LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    trainer.train()
    trainer.save_model(tmp_path / "adapter")
    assert (tmp_path / "adapter/adapter_model.safetensors").exists()
    assert not (tmp_path / "adapter/model.safetensors").exists()


def test_a_stopped_training_resumes_and_ends_as_one_that_was_not(trainer_of):
    whole = trainer_of(save_steps=2, out="whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(save_steps=2, callbacks=[StopAt(3)]).train()
    resumed = trainer_of(save_steps=2)
    resumed.train(resume_from_checkpoint=True)
    for mine, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_custom_method_may_return_a_users_plain_rows(trainer_of):
    custom = Method(name="custom", dataset=lambda data, **_: READY * len(data.triples))
    trainer = trainer_of(method=custom, num_train_epochs=1)
    trainer.train()
    assert len(trainer.train_dataset) == 2 * len(TRIPLES)
    assert "loss_rto" in trainer.state.log_history[0]


@pytest.mark.parametrize(("call", "steps"), [({}, 2), ({"resume_from_checkpoint": False}, 6)])
def test_a_checkpoint_named_in_the_config_is_resumed_unless_the_call_says_no(trainer_of, tmp_path, call, steps):
    trainer_of(save_steps=2, max_steps=4).train()
    taken = Counter()
    trainer = trainer_of(resume_from_checkpoint=str(tmp_path / "out/checkpoint-4"), callbacks=[Count(taken)])
    trainer.train(**call)
    assert taken["steps"] == steps


def test_a_config_serves_several_trainers_and_is_left_as_it_was(base, tmp_path):
    config = DertaConfig(str(tmp_path), **SETTINGS, step_tokens=100)
    before = config.to_dict()
    trained = [DertaTrainer(base, config, triples=TRIPLES, examples=iter(EXAMPLES)) for _ in range(2)]
    for trainer in trained:
        trainer.train()
    assert config.to_dict() == before
    first, second = ([entry.get("loss") for entry in trainer.state.log_history] for trainer in trained)
    assert first == second
    assert any("loss_helpful" in entry for entry in trained[0].state.log_history)  # data that is read once is kept


def test_ready_rows_are_trained_on_and_their_term_decides_where_they_count(trainer_of):
    trainer = trainer_of(data=False, train_dataset=READY * 4, num_train_epochs=1)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert {"loss_helpful", "loss_rto"} <= set(logged)
    assert "loss_safe" not in logged
    without = trainer_of(data=False, train_dataset=READY * 4, num_train_epochs=1, rto_weight=0.0)
    without.train()
    assert without.state.log_history[0]["loss"] < logged["loss"]


# --- evaluation ------------------------------------------------------------------------------------------------------


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


# --- what is left behind ---------------------------------------------------------------------------------------------


def test_no_file_holds_a_secret_and_no_finished_model_a_pickle(trainer_of, tmp_path):
    trainer = trainer_of(save_steps=2, hub_token="hf_planted", hub_model_id="me/mine")  # noqa: S106
    trainer.train()
    trainer.save_model()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"hf_planted" in path.read_bytes()]
    assert not list(tmp_path.rglob("training_args.bin"))
    final = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert not {name for name in final if name.endswith((".bin", ".pt", ".pth", ".pkl"))}
    arguments = json.loads((tmp_path / "out/training_args.json").read_text())
    assert (arguments["method"], arguments["learning_rate"]) == ("derta", 1e-3)
    assert "hub_token" not in arguments
    assert str(tmp_path) not in (tmp_path / "out/training_args.json").read_text()


def test_a_checkpoint_is_read_back_as_weights_only(trainer_of, monkeypatch):
    trainer_of(save_steps=2, max_steps=2).train()
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: read.append(k.get("weights_only")) or load(*a, **k))
    trainer_of(save_steps=2, max_steps=4).train(resume_from_checkpoint=True)
    assert len(read) >= 3
    assert set(read) == {True}


@pytest.mark.parametrize("strategy", ["every_save", "all_checkpoints", "end"])
def test_checkpoints_are_pushed_as_configured_and_without_the_state_to_resume_from(trainer_of, monkeypatch, strategy):
    pushed = []

    class Hub:
        def upload_folder(self, **given):
            pushed.append(given)

    monkeypatch.setattr("derta.train.checkpoints.HfApi", Hub)
    trainer = trainer_of(save_steps=3, hub_strategy=strategy)
    trainer.push_in_progress, trainer.hub_model_id = None, "me/mine"
    trainer._push_from_checkpoint(str(trainer.args.output_dir))
    assert len(pushed) == {"every_save": 1, "all_checkpoints": 2, "end": 0}[strategy]
    assert all("optimizer.*" in given["ignore_patterns"] for given in pushed[:1])


def test_a_training_is_pushed_from_first_to_last_without_a_pickle_of_its_arguments(trainer_of, monkeypatch):
    pushed, push_steps = [], []

    class Job:
        def done(self):
            return True

    class Hub:
        def create_repo(self, name, **_):
            return SimpleNamespace(repo_id=name)

        def upload_folder(self, folder_path, **given):
            pushed.append((given["commit_message"], {path.name for path in Path(folder_path).rglob("*")}))
            return Job()

    class RecordPushes(TrainerCallback):
        def on_push_begin(self, args, state, control, **_):
            push_steps.append(state.global_step)

    monkeypatch.setattr("derta.train.checkpoints.HfApi", Hub)
    monkeypatch.setattr("transformers.trainer.hf_api", Hub)
    monkeypatch.setattr("transformers.Trainer.create_model_card", lambda *_, **__: None)  # it queries the Hub
    trainer = trainer_of(push_to_hub=True, hub_model_id="me/mine", save_steps=3, callbacks=[RecordPushes()])
    trainer.train()
    trainer.save_model()
    assert [message for message, _ in pushed] == [
        "Training in progress, step 3", "Training in progress, step 6", "Model save",
    ]  # fmt: skip
    assert push_steps[:2] == [3, 6]
    assert all("training_args.json" in names and "training_args.bin" not in names for _, names in pushed)


# --- what a user can do wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"triples": [*TRIPLES, NO_REFUSAL]}, r"starts with Sorry, got 'I th.*\(1 of 7"),
        ({"data": False}, "expected triples=, examples= or train_dataset=, got none"),
        ({"train_dataset": READY}, "or train_dataset=, got both"),
        ({"data": False, "train_dataset": [{"input_ids": [1]}]}, "expected input_ids, labels, term, got input_ids"),
        ({"data": False, "train_dataset": [READY[0] | {"term": "x"}]}, "expected the term helpful, .*, got 'x'"),
        ({"data": False, "train_dataset": [READY[0] | {"labels": [IGNORE] * 5}]}, "every label is masked"),
        ({"data": False, "train_dataset": [READY[0] | {"input_ids": "words"}]}, "to be token ids, got .words."),
        ({"data": False, "train_dataset": [READY[0] | {"input_ids": [9999] * 5}]}, "below the model's .*, got 9999"),
        ({"data": False, "train_dataset": READY, "max_length": 32, "eval_dataset": [LONG]}, "most max_length .*got 40"),
        ({"triples": [{"query": "q", "safe": "Sorry.", "harmful": "Sure."}]}, "triples: expected records .*, got dict"),
        ({"examples": ["text"]}, r"examples: expected records \(Example\), got str"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_trained_on_are_refused_in_one_line(trainer_of, given, message):
    with pytest.raises(DataError, match=message) as caught:
        trainer_of(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "drta"}, "unknown method 'drta'; did you mean 'derta'"),
        ({"method": "dpo"}, "dpo has a separate trainer; use derta.methods.tune"),
        ({"method": "base"}, "expected one that trains, got base"),
        ({"peft_config": {"r": 4}}, r"peft_config: expected a PEFT config \(LoraConfig\), got dict"),
        (
            {"eval_strategy": "epoch"},
            "expected eval_triples=, eval_examples= or eval_dataset= for evaluation, got none",
        ),
    ],
)
def test_settings_that_it_cannot_train_with_are_refused(trainer_of, given, message):
    with pytest.raises(RecipeError, match=message):
        trainer_of(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"speed": 1}}, "lr_scheduler_kwargs: .*'speed'"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type, lr_scheduler_kwargs: One of min_lr"),
        (
            {"optim": "galore_adamw", "optim_target_modules": "all-linear"},
            "optim, .*: You need to install `galore_torch`",
        ),
    ],
)
def test_invalid_optimizer_and_scheduler_settings_are_reported_by_name(trainer_of, given, message):
    with pytest.raises(RecipeError, match=message):
        trainer_of(**given).train()


def test_arguments_that_are_no_derta_config_are_refused(base, tmp_path):
    with pytest.raises(RecipeError, match="args: expected a DertaConfig, got TrainingArguments"):
        DertaTrainer(base, TrainingArguments(str(tmp_path), use_cpu=True), triples=TRIPLES)


def test_a_tokenizer_of_another_model_is_refused(trainer_of, make_model, make_tokenizer):
    small = make_model("llama", vocab_size=280)
    with pytest.raises(DataError, match=r"row .*: expected token ids below the model's vocabulary \(280\)"):
        trainer_of(small, processing_class=make_tokenizer())


def test_without_rows_to_evaluate_on_it_says_so_and_there_are_no_predictions(trainer_of):
    trainer = trainer_of()
    with pytest.raises(DataError, match="expected rows for evaluation, got none; pass eval_dataset="):
        trainer.evaluate()
    with pytest.raises(RunError, match=r"predict: .*no predictions; call evaluate\(\)"):
        trainer.predict(READY)


def test_a_model_made_in_memory_needs_its_tokenizer(trainer_of, make_model):
    with pytest.raises(RecipeError, match="processing_class: expected the tokenizer of a model created in memory"):
        trainer_of(make_model("llama", vocab_size=512))


# --- arguments of Hugging Face's -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"optim": "sgd", "optim_args": "momentum=0.5"},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5}},
        {"include_num_input_tokens_seen": "all"},
        {"include_num_input_tokens_seen": "non_padding"},
        {"torch_empty_cache_steps": 1},
        {"full_determinism": True},
        {"data_seed": 7},
        {"report_to": "tensorboard", "method": METHODS["derta"]},
        {"skip_memory_metrics": False},
        {"debug": "underflow_overflow"},
        {"save_strategy": "epoch", "save_only_model": True},
        {"logging_strategy": "epoch"},
        {"logging_first_step": True},
        {"activation_checkpointing": True},
        {"enable_jit_checkpoint": True},
        {"max_grad_norm": 0.1, "adam_beta1": 0.5, "adam_beta2": 0.9, "adam_epsilon": 1e-6},
        {"eval_on_start": True, "eval_strategy": "epoch", "eval_delay": 1, "eval_triples": TRIPLES[:1]},
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_arguments_of_the_trainer_are_respected(trainer_of, settings):
    trainer = trainer_of(max_steps=2, **settings)
    trainer.train()
    assert trainer.state.global_step == 2
    if "include_num_input_tokens_seen" in settings:
        assert trainer.state.num_input_tokens_seen > 0
    if "data_seed" in settings:
        plain = trainer_of(max_steps=2, out="plain")
        plain.train()
        assert plain.state.log_history[0]["loss"] != trainer.state.log_history[0]["loss"]


@pytest.mark.parametrize("settings", [{"pack_tokens": 0}, {"pack_tokens": 128}, {"tree_rows": True}])
def test_tokens_seen_are_those_of_the_rows_and_none_of_the_padding(trainer_of, make_tokenizer, settings):
    rows = READY * 4 if "tree_rows" not in settings else None
    trainer = trainer_of(
        data=rows is None, train_dataset=rows, num_train_epochs=1, include_num_input_tokens_seen="non_padding",
        processing_class=make_tokenizer(pad=False), **settings,
    )  # fmt: skip
    trainer.train()
    lengths = [len(trainer.train_dataset[0, index].input_ids) for index in range(len(trainer.train_dataset))]
    assert trainer.state.num_input_tokens_seen == sum(lengths)


PROGRAM = """
import json, pickle, sys
from pathlib import Path
from derta.train.config import DertaConfig
from derta.train.trainer import DertaTrainer
given = pickle.load(open(sys.argv[1], "rb"))
trainer = DertaTrainer(given["model"], DertaConfig(given["out"], **given["settings"]), triples=given["triples"],
                       examples=given["examples"], eval_triples=given["triples"][:3])
trainer.train()
found = trainer.evaluate()
trainer.save_model()
if trainer.is_world_process_zero():
    losses = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    (Path(given["out"]) / "found.json").write_text(json.dumps([losses, found["eval_loss"]]))
"""


def test_under_a_launcher_it_trains_and_evaluates_as_one_process_does(trainer_of, tmp_path, base):
    settings = SETTINGS | {"bf16": False, "per_device_train_batch_size": 2}
    job = {"model": base, "out": str(tmp_path / "both"), "settings": settings, "triples": TRIPLES, "examples": EXAMPLES}
    (tmp_path / "job.pickle").write_bytes(pickle.dumps(job))
    ended = run_forks(PROGRAM, tmp_path / "job.pickle", folder=tmp_path, environments=distributed(2))
    assert [one.returncode for one in ended] == [0, 0], ended
    alone = trainer_of(bf16=False, eval_triples=TRIPLES[:3])
    alone.train()
    losses = [entry["loss"] for entry in alone.state.log_history if "loss" in entry]
    both, loss = json.loads((tmp_path / "both/found.json").read_text())
    assert both == pytest.approx(losses, abs=2e-4)
    assert loss == pytest.approx(alone.evaluate()["eval_loss"], abs=2e-4)
    assert (tmp_path / "both/model.safetensors").exists()
