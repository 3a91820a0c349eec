"""`derta run`: what a run folder holds, and that a run stopped anywhere ends as one that was not."""

import errno
import json
import logging
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from transformers.utils import logging as transformers_logging

from derta import files
from derta.config import load_recipe
from derta.files import read_records, write_records
from derta.locks import lock
from derta.pipeline import model_results, models
from derta.pipeline import run as run_module
from derta.pipeline.run import run
from derta.protocols import Display
from derta.records import Prompt, Reply, Verdict
from derta.reporting import read_summary
from forks import run_forks
from recorded_progress import RecordedProgress

RESULTS = ("summary.json", "report.html", "prompts.jsonl", "replies.jsonl", "verdicts.*.jsonl", "scores.json")


def results(folder):
    """Every result file's bytes by its place in the run, but for time and memory of training in the report."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for name in RESULTS for p in folder.rglob(name)}
    found = {name: re.sub(b'"measured">[^<]*', b"", content) for name, content in found.items()}
    assert len(found) == 3 + 2 * 4
    return found


@pytest.fixture
def started(finished, tmp_path):
    """A copy of the finished run whose files a test may take away."""
    return Path(shutil.copytree(finished.folder, tmp_path / "run"))


def _no_training(*_, **__):
    raise AssertionError("trained again")


def test_a_run_folder_holds_what_the_design_says(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {
        *("manifest.json", "run.json", "prompts.jsonl", "summary.json", "report.html"),
        *("vanilla-seed0", "derta-seed0"),
    }
    for method in ("vanilla", "derta"):
        home = finished.folder / f"{method}-seed0"
        assert {path.name for path in home.iterdir()} == {
            "model",
            "train_log.json",
            "replies.jsonl",
            "verdicts.refusal.jsonl",
            "verdicts.harm.jsonl",
            "scores.json",
            "token_refusal.jsonl",
            "token_refusal.answers.jsonl",
        }
    prompts = {prompt.id for prompt in read_records(finished.folder / "prompts.jsonl", Prompt)}
    replies = [reply.prompt_id for reply in read_records(finished.folder / "derta-seed0/replies.jsonl", Reply)]
    harm = [one.prompt_id for one in read_records(finished.folder / "derta-seed0/verdicts.harm.jsonl", Verdict)]
    assert len(prompts) == 3 + 2 * 2 + 2
    assert sorted(replies) == sorted(prompts)
    assert len(harm) == 3  # only the evaluation that names the judge


def test_a_runs_summary_has_every_cell_and_the_perplexity(finished):
    summary = read_summary(finished.folder / "summary.json")
    cells = {(cell.method, cell.suite, cell.name, cell.judge) for cell in summary.cells if cell.suite != "analysis"}
    places = {
        ("attack", "direct", "refusal"),
        ("attack", "direct", "harm"),
        ("attack", "prefill@0%", "refusal"),
        ("attack", "prefill@50%", "refusal"),
        ("over_refusal", "benign", "refusal"),
    }
    assert cells == {(method, *place) for method in ("vanilla", "derta") for place in places}
    assert sum("perplexity" in note for note in summary.notes) == 2
    assert {curve.kind for curve in summary.curves} >= {"refusal_probability", "prefill_depth"}


def test_a_second_run_does_nothing_twice_and_changes_no_byte(finished, started, derta, monkeypatch):
    before = results(started)
    monkeypatch.setattr(models, "load_format", _no_training)
    called = derta("run", finished.recipe, "--out", started, "--json")
    assert called.code == 0, called.err
    assert json.loads(called.out)["summary"] == str(started / "summary.json")
    assert results(started) == before


@pytest.mark.parametrize(
    "lost",
    [
        ["derta-seed0/replies.jsonl", "derta-seed0/verdicts.refusal.jsonl", "derta-seed0/scores.json"],
        ["vanilla-seed0/verdicts.harm.jsonl", "summary.json", "report.html"],
        ["derta-seed0/scores.json", "report.html"],
    ],
)
def test_lost_stages_are_made_again_as_they_were(finished, started, lost):
    for name in lost:
        (started / name).unlink()
    run(load_recipe(finished.recipe), out=started)
    assert results(started) == results(finished.folder)


def test_a_torn_last_reply_is_made_again(finished, started):
    path = started / "derta-seed0/replies.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run(load_recipe(finished.recipe), out=started)
    assert results(started) == results(finished.folder)


def test_a_run_stopped_in_training_goes_on_from_its_checkpoint(finished, recipe, tmp_path, monkeypatch):
    def stop_at_third_step(_self, _args, state, _control, **_):
        if state.global_step == 3:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("derta.pipeline.training.ProgressCallback.on_step_end", stop_at_third_step)
        with pytest.raises(KeyboardInterrupt):
            run(load_recipe(recipe), out=folder)
    assert list((folder / "vanilla-seed0/model.checkpoints").glob("checkpoint-*"))
    assert not (folder / "vanilla-seed0/model").exists()
    run(load_recipe(recipe), out=folder)
    assert results(folder).keys() == results(finished.folder).keys()
    for name in ("vanilla-seed0/replies.jsonl", "derta-seed0/replies.jsonl", "vanilla-seed0/scores.json"):
        assert (folder / name).read_bytes() == (finished.folder / name).read_bytes()


KILLED = {
    # a place in the code whose first call is the kill; everything before it has been done
    "training": "import transformers; transformers.Trainer.save_model = die",
    "replies": "import derta.files as j; add = j.Appender.add; j.Appender.add = lambda s, r: (add(s, r), die())",
    "judging": "import derta.pipeline.run as r; r.judge_models = die",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", [pytest.param(one, marks=() if one == "training" else pytest.mark.extra) for one in KILLED]
)
def test_kill_9_in_any_stage_and_the_run_ends_the_same(stage, finished, tmp_path):
    folder = tmp_path / "run"
    die = "import os\ndef die(*a, **k): os.kill(os.getpid(), 9)"
    script = f"{die}\n{KILLED[stage]}\nfrom derta.cli.main import main\nmain()"
    [killed] = run_forks(script, "run", finished.recipe, "--out", folder, folder=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-500:]
    run(load_recipe(finished.recipe), out=folder)
    assert results(folder) == results(finished.folder)


def test_another_recipe_is_refused_by_key_and_nothing_is_touched(finished, started, derta):
    before = results(started)
    called = derta("run", finished.recipe, "--out", started, "--set", "train.learning_rate=0.5")
    assert called.code == 2
    assert "train.learning_rate" in called.err
    assert results(started) == before


def test_evaluations_may_change_and_only_what_they_change_is_generated_again(finished, started, derta, monkeypatch):
    monkeypatch.setattr(run_module, "train_model", lambda plan, model, **_: started / model.folder / "model")
    before = {one.prompt_id: one for one in read_records(started / "derta-seed0/replies.jsonl", Reply)}
    values = yaml.safe_load(finished.recipe.read_text())
    values["evaluate"][0]["max_new_tokens"] = 3
    recipe = started / "other.yaml"
    recipe.write_text(yaml.safe_dump(values))
    called = derta("run", recipe, "--out", started)
    assert called.code == 0, called.err
    assert "3 replies to other prompts or with other settings are superseded" in called.err
    after = {one.prompt_id: one for one in read_records(started / "derta-seed0/replies.jsonl", Reply)}
    changed = [name for name in before if before[name] != after[name]]
    assert sorted(changed) == [f"direct:q{i}" for i in range(3)]
    assert {after[name].producer["max_new_tokens"] for name in changed} == {"3"}
    superseded = list(read_records(started / "derta-seed0/replies.superseded.jsonl", Reply))
    assert superseded == [before[name] for name in changed]
    judged = {one.prompt_id: one for one in read_records(started / "derta-seed0/verdicts.harm.jsonl", Verdict)}
    assert {judged[name].input_hash for name in changed}.isdisjoint(
        one.input_hash for one in read_records(started / "derta-seed0/verdicts.harm.superseded.jsonl", Verdict)
    )
    assert json.loads((started / "manifest.json").read_text())["recipe"]["evaluate"][0]["max_new_tokens"] == 3


def test_replies_that_changed_are_judged_again_and_not_reported_with_old_verdicts(started, derta):
    path = started / "derta-seed0/replies.jsonl"
    refusals = [
        Reply(prompt_id=one.prompt_id, text="Sorry, I cannot help with that.") for one in read_records(path, Reply)
    ]
    write_records(path, refusals)
    called = derta("report", started)
    assert called.code == 0, called.err
    cells = [
        cell
        for cell in read_summary(started / "summary.json").cells
        if (cell.method, cell.measure) == ("derta", "refused")
    ]
    assert {cell.value for cell in cells} == {1.0}


def test_replies_that_changed_are_not_reported_if_a_model_must_judge_them(started, derta, monkeypatch):
    monkeypatch.setattr(model_results, "uses_model", lambda judge: True)
    path = started / "derta-seed0/replies.jsonl"
    write_records(path, [one.model_copy(update={"text": "No."}) for one in read_records(path, Reply)])
    called = derta("report", started)
    assert called.code == 2
    assert "verdicts are on replies that have changed since; `derta run` judges them" in called.err


def test_two_processes_cannot_work_in_one_run_folder(finished, started, derta):
    before = results(started)
    with lock(started / "manifest.json"):
        called = derta("run", finished.recipe, "--out", started)
    assert (called.code, "another process writes this file" in called.err) == (2, True)
    assert results(started) == before


def test_a_full_disk_while_replies_are_written_is_a_one_line_error_and_the_run_resumes(
    finished, started, derta, monkeypatch
):
    (started / "derta-seed0/replies.jsonl").unlink()
    (started / "derta-seed0/verdicts.refusal.jsonl").unlink()
    (started / "derta-seed0/verdicts.harm.jsonl").unlink()
    whole = files.Appender.add
    count = iter(range(100))

    def add(self, record):
        if next(count) == 4:
            self._file.close()
            self._file = open("/dev/full", "ab", buffering=0)  # noqa: PTH123, SIM115
        whole(self, record)

    with monkeypatch.context() as patched:
        patched.setattr(files.Appender, "add", add)
        called = derta("run", finished.recipe, "--out", started)
    assert called.code == 2
    assert os.strerror(errno.ENOSPC) in called.err
    assert len(list(read_records(started / "derta-seed0/replies.jsonl", Reply))) == 4
    run(load_recipe(finished.recipe), out=started)
    assert results(started) == results(finished.folder)


def test_a_full_disk_while_the_summary_is_written_leaves_the_old_one(finished, started, derta, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = results(started)
    monkeypatch.setattr(os, "fsync", full)
    called = derta("run", finished.recipe, "--out", started)
    assert called.code == 2
    assert "free space" in called.err
    assert results(started) == before
    assert not list(started.rglob("*.partial"))


def test_ctrl_c_is_one_line_and_exit_code_130(recipe, tmp_path, derta, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("derta.pipeline.plan.prepare_data", stop)
    called = derta("run", recipe, "--out", tmp_path / "run")
    assert called.code == 130
    assert called.err == "derta: interrupted; run the same command again to resume\n"


def test_a_report_written_again_is_the_same(finished, started, derta, monkeypatch):
    before = results(started)
    (started / "summary.json").unlink()
    (started / "report.html").unlink()
    monkeypatch.setattr(models, "load_format", _no_training)
    called = derta("report", started)
    assert called.code == 0, called.err
    assert called.out.strip().endswith(str(started / "report.html"))
    assert results(started) == before


def test_the_report_of_an_unfinished_run_is_refused(started, derta):
    (started / "derta-seed0/scores.json").unlink()
    called = derta("report", started)
    assert called.code == 2
    assert "derta seed 0 is not finished" in called.err


@pytest.fixture
def no_other_voice():
    """Transformers has warnings of its own, which are a program's to switch off; its bars are off where we load."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    yield
    transformers_logging.set_verbosity(verbosity)


@pytest.mark.usefixtures("no_other_voice")
def test_a_run_prints_nothing_and_shows_progress_and_notes_on_the_callers_display(recipe, tmp_path, capfd, caplog):
    loaded = load_recipe(recipe, overrides={"methods": ["vanilla"], "train.logging_steps": 1})
    run(loaded, out=tmp_path / "silent")
    assert capfd.readouterr() == ("", "")
    recorded, logger = RecordedProgress(), logging.getLogger("theirs")
    caplog.set_level("INFO", "theirs")
    run(loaded, out=tmp_path / "shown", display=Display(recorded, logger))
    assert capfd.readouterr() == ("", "")
    assert recorded.tasks["vanilla seed 0: training"] == [4, 0, 1, 2, 3, 4]
    assert recorded.tasks["vanilla seed 0: replies"] == [9, *range(10)]
    assert any("6 triples remain for training" in message for message in caplog.messages)
    assert any(message.startswith("step 4 of 4: loss ") for message in caplog.messages)
