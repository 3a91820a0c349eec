import errno
import json
import pickle
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from stopping import StopAt
from tiny_training import tune_job
from transformers.models.auto import AutoModelForCausalLM

from derta.config import LoraSection, RowConfig
from derta.data.rows import IGNORE
from derta.errors import ModelError, RecipeError, RunError
from derta.train import adapters, memory
from derta.train.checkpoints import NonFiniteLossError, last_complete_checkpoint
from derta.train.dataset import MicroBatchSampler, RowDataset, StepSettings
from derta.train.trainer import DertaTrainer
from forks import distributed, run_forks
from tolerances import assert_trained_alike

TRAIN = {
    "num_train_epochs": 2, "global_batch_size": 8, "per_device_train_batch_size": 4, "learning_rate": 1e-3,
    "max_length": 128, "pack_tokens": 128, "sorry_dropout": 0.5, "logging_steps": 1,
}  # fmt: skip
LORA = LoraSection(r=4, lora_alpha=8)
GROUPING = {"row": "tokens", "token": "tokens", "micro_batch": "order"}


@pytest.fixture(scope="module")
def fit(make_model_dir, make_tokenizer, small_data):
    base = make_model_dir(initializer_range=0.05)

    def run(out, *, train=TRAIN, method="derta", **given):
        lora = train.get("lora")
        settings = {name: value for name, value in train.items() if name != "lora"}
        plain = {"model": str(base), "data": small_data(method), "tokenizer": make_tokenizer(), "lora": lora}
        return tune_job(settings=settings, out=out, **(plain | given))

    run.base = base
    return run


@pytest.fixture
def run_fit(tmp_path, fit):
    def run(*, out="model", **given):
        return fit(tmp_path / out, **given)

    run.base = fit.base
    return run


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, fit):
    """Return a function that gives the folder of an uninterrupted training, made once for the tests that read it."""

    @cache
    def folder(*, has_lora=False, **settings):
        train = changed(TRAIN, lora=LORA if has_lora else None, **settings)
        return fit(tmp_path_factory.mktemp("whole") / "model", train=train)

    return folder


def changed(settings, **others):
    return settings | others


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(10, 30)[None]).logits


def read_log(folder):
    return [entry for entry in json.loads((folder / "train_log.json").read_text()) if "loss" in entry]


def saved_bytes(folder, name="model.safetensors"):
    return (folder / name).read_bytes()


# --- what is left behind ---------------------------------------------------------------------------------------------


def test_a_full_run_leaves_a_stock_checkpoint_that_answers_as_the_trained_model_did(run_fit, monkeypatch, capsys):
    kept = []
    plain = adapters.load_base
    monkeypatch.setattr(adapters, "load_base", lambda *a, **k: kept.append(plain(*a, **k)) or kept[-1])
    out = run_fit()
    trained = kept[0]
    reloaded = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(logits(reloaded), logits(trained))
    assert not torch.allclose(logits(reloaded), logits(AutoModelForCausalLM.from_pretrained(run_fit.base)))
    assert (out / "tokenizer.json").exists()
    assert sorted(path.name for path in out.parent.iterdir()) == ["model"]
    assert capsys.readouterr().out == ""  # standard output is the command's


def test_a_lora_run_leaves_an_adapter_that_changes_the_stock_base(run_fit):
    out = run_fit(train=changed(TRAIN, lora=LORA, learning_rate=1e-2))
    base = AutoModelForCausalLM.from_pretrained(run_fit.base)
    before = logits(base)
    adapted = PeftModel.from_pretrained(base, out)
    assert not torch.allclose(logits(adapted), before, atol=1e-3)
    assert not (out / "model.safetensors").exists()
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted), before)


def test_lora_on_the_head_trains_and_loads(run_fit):
    with pytest.warns(UserWarning, match="save_embedding_layers"):  # PEFT stores the head beside its adapter
        out = run_fit(
            train=changed(
                TRAIN, num_train_epochs=1, lora=LORA.model_copy(update={"target_modules": ("q_proj", "lm_head")})
            )
        )
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(run_fit.base), out)
    assert any("lm_head.lora_B" in name and tensor.any() for name, tensor in adapted.state_dict().items())


def test_the_log_holds_the_losses_by_term(whole_run):
    log = read_log(whole_run())
    assert len(log) == 6
    assert {"loss_helpful", "loss_safe", "loss_rto", "refusal_probability", "learning_rate"} <= set(log[0])


def test_a_loggers_files_outlive_the_checkpoints(run_fit, tmp_path):
    run_fit(train=changed(TRAIN, report_to="tensorboard"))
    assert list((tmp_path / "model.runs").rglob("events.out.tfevents*"))
    assert not list((tmp_path / "model").rglob("events.out.tfevents*"))  # they hold paths of this machine
    assert not (tmp_path / "model.checkpoints").exists()


def test_what_is_finished_is_not_trained_again(run_fit):
    out = run_fit()
    before = saved_bytes(out)
    assert run_fit(train=changed(TRAIN, learning_rate=1.0)) == out
    assert saved_bytes(out) == before


@pytest.mark.parametrize(
    "settings",
    [
        {"bf16": True},
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "lora": LORA},
        {"pack_tokens": 0},
        {"pack_tokens": 0, "train_sampling_strategy": "group_by_length"},
    ],
)
def test_options_that_save_memory_train_to_nearly_the_same_loss(run_fit, whole_run, settings):
    plain = read_log(whole_run(has_lora="lora" in settings))
    spared = read_log(run_fit(train=changed(TRAIN, **settings)))
    assert [entry["loss"] for entry in spared] == pytest.approx([entry["loss"] for entry in plain], abs=0.05)


def test_an_update_that_is_no_number_is_not_saved(run_fit, tmp_path):
    with pytest.raises(NonFiniteLossError, match="expected finite weights, got NaN or infinity in model"):
        run_fit(train=changed(TRAIN, max_steps=1, learning_rate=1e39, warmup_steps=0))
    assert not (tmp_path / "model").exists()


def test_terms_without_weight_are_not_learned(run_fit, whole_run):
    weighted = read_log(run_fit(train=changed(TRAIN, rto_weight=0.0), out="weighted"))
    plain = read_log(whole_run())
    assert weighted[-1]["refusal_probability"] < 0.5 * plain[-1]["refusal_probability"]


@pytest.mark.parametrize("name", ["row", "token", "micro_batch"])
def test_the_loss_is_divided_as_the_recipe_says(run_fit, small_data, name):
    """One step of two micro-batches, against the stock model on each row alone."""
    train = changed(
        TRAIN, num_train_epochs=1, global_batch_size=24, per_device_train_batch_size=12, max_steps=1, normalization=name
    )
    (logged,) = read_log(run_fit(train=train))
    dataset = RowDataset(small_data("derta"), config=RowConfig(max_length=128, sorry_dropout=0.5), seed=0)
    model = AutoModelForCausalLM.from_pretrained(run_fit.base)
    sampler = MicroBatchSampler(dataset, settings=StepSettings(12, 2, grouping=GROUPING[name]), seed=0)

    def counted(row):
        count = sum(label != IGNORE for label in row.labels)
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss
        return count, float(loss) * count

    micro_batches = [[counted(dataset[key]) for key in keys] for keys in sampler]
    assert [len(rows) for rows in micro_batches] == [12, 12] or name != "micro_batch"
    rows = [one for batch in micro_batches for one in batch]
    expected = {
        "row": sum(total / count for count, total in rows) / len(rows),
        "token": sum(total for _, total in rows) / sum(count for count, _ in rows),
        "micro_batch": sum(sum(t for _, t in one) / sum(c for c, _ in one) for one in micro_batches) / 2,
    }
    assert logged["loss"] == pytest.approx(expected[name], rel=1e-5)
    assert len({round(value, 3) for value in expected.values()}) == 3


def test_the_log_ends_with_the_peak_of_memory(whole_run):
    last = json.loads((whole_run() / "train_log.json").read_text())[-1]
    assert last["step"] == 6
    assert last["peak_memory_gib"] > 0.01


def test_holes_are_looked_for_after_every_micro_batch(run_fit, monkeypatch):
    looks = []
    monkeypatch.setattr(memory.TrimMemoryCallback, "_trim", lambda _: looks.append(1))
    run_fit(train=changed(TRAIN, max_steps=3))  # of two micro-batches
    assert len(looks) == 6


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")  # the compiler's own, of torch on torch
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_layers_train_to_the_same_losses(run_fit):
    short = changed(TRAIN, max_steps=2)
    plain, compiled = (read_log(run_fit(train=changed(short, compile_layers=on), out=str(on))) for on in (False, True))
    assert [entry["loss"] for entry in compiled] == pytest.approx([entry["loss"] for entry in plain], abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attn_implementation": "flex_attention"}, "expected a GPU for flex_attention, found none; use sdpa"),
        ({"fp16": True}, "fp16: expected a GPU, found none; use bf16"),
        ({"attn_implementation": "flash_attention_2", "bf16": True}, r"attention by flash.*install it, or use sdpa"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has some of them")
def test_missing_hardware_is_a_one_line_error(run_fit, tmp_path, settings, message):
    with pytest.raises((RecipeError, ModelError), match=message):
        run_fit(train=changed(TRAIN, **settings))
    assert not list(tmp_path.glob("model*"))


def test_a_missing_logger_is_a_one_line_error(run_fit, tmp_path):
    with pytest.raises(RecipeError, match=r"report_to: expected an installed logger \(.*got 'nonsense'"):
        run_fit(train=changed(TRAIN, report_to="nonsense"))
    assert not list(tmp_path.glob("model*"))


def test_a_budget_below_the_rows_lengths_makes_steps_of_one_row_and_none_of_none(run_fit):
    log = read_log(run_fit(train=changed(TRAIN, num_train_epochs=1, step_tokens=10)))
    assert len(log) == 24
    assert all(entry["loss"] > 0 for entry in log)


# --- stopped and gone on with ----------------------------------------------------------------------------------------


# before the first checkpoint, after one, in the second epoch
@pytest.mark.parametrize(("step", "lora"), [(1, None), (5, None), (3, LORA)])
def test_a_run_stopped_by_ctrl_c_ends_as_one_that_was_never_stopped(run_fit, whole_run, tmp_path, step, lora):
    train = changed(TRAIN, save_steps=2, lora=lora)
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    whole = whole_run(has_lora=lora is not None, save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        run_fit(train=train, out="stopped", callbacks=[StopAt(step)])
    assert not (tmp_path / "stopped").exists()
    stopped = run_fit(train=train, out="stopped")
    assert saved_bytes(stopped, name) == saved_bytes(whole, name)
    assert [entry["loss"] for entry in read_log(stopped)] == [entry["loss"] for entry in read_log(whole)]
    assert [path.name for path in tmp_path.iterdir()] == ["stopped"]
    assert [path.name for path in whole.parent.iterdir()] == ["model"]


def test_a_torn_checkpoint_is_passed_over(run_fit, whole_run, tmp_path):
    train = changed(TRAIN, save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        run_fit(train=train, out="stopped", callbacks=[StopAt(3)])
    checkpoints = tmp_path / "stopped.checkpoints"
    torn = checkpoints / "checkpoint-4"
    torn.mkdir()
    (torn / "trainer_state.json").write_text((checkpoints / "checkpoint-2/trainer_state.json").read_text()[:40])
    assert last_complete_checkpoint(checkpoints) == str(checkpoints / "checkpoint-2")
    assert saved_bytes(run_fit(train=train, out="stopped")) == saved_bytes(whole_run(save_steps=2))


# --- what a user can do wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    ],
)
def test_a_full_disk_is_a_one_line_error(run_fit, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(DertaTrainer, "save_model", fail)
    with pytest.raises(RunError, match=r"model: cannot write a checkpoint .*free space, then run the same command"):
        run_fit()


@pytest.mark.parametrize(
    "place", ["transformers.AutoModelForCausalLM.from_pretrained", "derta.train.preparation.use_label_loss"]
)
def test_running_out_of_memory_before_training_is_a_one_line_error(run_fit, monkeypatch, place):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(place, full)
    with pytest.raises(ModelError, match="out of memory while the model was loaded"):
        run_fit()


def test_other_faults_are_not_taken_for_a_full_disk(run_fit, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("something else")

    monkeypatch.setattr(DertaTrainer, "compute_loss", fail)
    with pytest.raises(RuntimeError, match="something else"):
        run_fit()


@pytest.mark.parametrize("content", [{}, {"config.json": "{}"}, {"config.json": "not json"}])
def test_a_folder_that_holds_no_model_is_refused(run_fit, tmp_path, content):
    folder = tmp_path / "base"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    with pytest.raises(ModelError, match=r"base: (expected a folder with config.json|cannot load the model)"):
        run_fit(model=str(folder))


# --- two processes ---------------------------------------------------------------------------------------------------

WORKER = "import pickle, sys; from tiny_training import tune_job; tune_job(**pickle.load(open(sys.argv[1], 'rb')))\n"


@pytest.mark.slow
@pytest.mark.extra
def test_two_processes_train_as_one_does(run_fit, tmp_path, make_tokenizer, small_data):
    train = changed(TRAIN, per_device_train_batch_size=2)
    alone = run_fit(train=train, out="alone")
    job = {
        "model": str(run_fit.base),
        "settings": train,
        "tokenizer": make_tokenizer(),
        "data": small_data("derta"),
        "out": tmp_path / "both",
    }
    (tmp_path / "job.pickle").write_bytes(pickle.dumps(job))
    for ended in run_forks(WORKER, tmp_path / "job.pickle", folder=tmp_path, environments=distributed(2)):
        assert ended.returncode == 0, ended.stderr[-3000:]
    for name in ("loss", "loss_helpful", "loss_safe", "loss_rto", "refusal_probability"):
        single, double = ([entry.get(name) for entry in read_log(folder)] for folder in (alone, tmp_path / "both"))
        assert double == pytest.approx(single, abs=2e-4), name
    ours, expected = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "both", alone))
    assert_trained_alike(ours.state_dict(), expected.state_dict(), learning_rate=1e-3, steps=6)
    assert Path(tmp_path / "both.checkpoints").exists() is False
