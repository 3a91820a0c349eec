"""What `DertaTrainer` leaves behind: files and pushes without secrets and pickles."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback


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
