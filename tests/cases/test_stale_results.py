"""Results that were made from something else than what is there today are in no report, export or comparison."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub.errors import EntryNotFoundError

from derta import run_folder
from derta.config import load_recipe
from derta.data.requests import Request
from derta.engines.scripted import ScriptedModel
from derta.errors import DataError, RunError
from derta.files import read_records, write_records
from derta.formats.cases import read_judged_cases
from derta.judges import build_judge, judge_producer
from derta.loading import load_config as load_model_config
from derta.pipeline import fine_tuning_folder, method
from derta.pipeline import run as run_module
from derta.pipeline.calibrating import calibrate_file, read_calibration
from derta.pipeline.data import hub_base, training_files
from derta.pipeline.report import report
from derta.pipeline.run import run
from derta.pipeline.search import add_searched_prompts
from derta.provenance import model_hash
from derta.records import Prompt, Reply, Verdict
from small_run import small_recipe, write_jsonl


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run."""
    return Path(shutil.copytree(finished.folder, tmp_path / "run"))


def edit(path, kind, **update):
    """Rewrite the records of a file with changed fields; a function gets the old value."""
    rows = list(read_records(path, kind))
    write_records(
        path,
        [row.model_copy(update={key: change(getattr(row, key)) for key, change in update.items()}) for row in rows],
    )


def test_superseded_verdicts_are_no_judge_of_an_export(copied):
    home = copied / "derta-seed0"
    shutil.copy(home / "verdicts.harm.jsonl", home / "verdicts.harm.superseded.jsonl")
    cases = read_judged_cases(home / "replies.jsonl")
    assert {judge for case in cases for judge in case.verdicts} == {"harm", "refusal"}


def test_verdicts_under_another_judges_name_are_refused(copied):
    home = copied / "derta-seed0"
    edit(home / "verdicts.harm.jsonl", Verdict, judge=lambda _: "steps")
    with pytest.raises(RunError, match="expected verdicts of harm, got one of steps"):
        report(copied)
    with pytest.raises(DataError, match="expected verdicts of 'harm', got one of 'steps'"):
        read_judged_cases(home / "replies.jsonl")


@pytest.mark.parametrize("name", ["derta-seed0/verdicts.harm.jsonl", "prompts.jsonl"])
def test_an_export_does_not_replace_the_verdicts_or_prompts_that_it_reads(name, copied, derta):
    before = (copied / name).read_bytes()
    called = derta("export", copied / "derta-seed0/replies.jsonl", "--format", "harmbench", "--out", copied / name)
    assert (called.code, "is an input too" in called.err) == (2, True), called.err
    assert (copied / name).read_bytes() == before


def test_exported_rows_do_not_replace_data_whose_path_holds_a_variable(tmp_path, tiny_model_dir, monkeypatch):
    monkeypatch.setenv("DERTA_HERE", str(tmp_path))
    path = small_recipe(tmp_path, tiny_model_dir)
    path.write_text(path.read_text().replace(str(tmp_path / "helpful.jsonl"), "$DERTA_HERE/helpful.jsonl"))
    before = (tmp_path / "helpful.jsonl").read_bytes()
    with pytest.raises(RunError, match="is an input too"):
        method.export_rows(load_recipe(path), method="derta", seed=0, epoch=0, out=tmp_path / "helpful.jsonl")
    assert (tmp_path / "helpful.jsonl").read_bytes() == before


def test_replies_to_prompts_that_changed_are_not_reported(copied):
    path = copied / "prompts.jsonl"  # of a run that was stopped after its requests changed
    path.write_text(path.read_text().replace("Where is bread now?", "Where is soup now?"))
    with pytest.raises(RunError, match="vanilla seed 0: 1 replies are to prompts that have changed since"):
        report(copied)


def test_searched_prompts_of_other_evaluations_are_not_reported(copied):
    home = copied / "derta-seed0"
    shutil.copy(copied / "prompts.jsonl", home / "prompts.jsonl")
    report(copied)
    edit(copied / "prompts.jsonl", Prompt, category=lambda _: "food")
    with pytest.raises(RunError, match="derta seed 0: the replies are to prompts that have changed since"):
        report(copied)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("verdicts.harm.jsonl", Verdict, r"verdicts of harm by the same judge .* another \(model \(none before, b now"),
        ("replies.jsonl", Reply, r"replies with the settings of the other models, got others \(dtype"),
    ],
)
def test_models_with_other_settings_or_another_judge_are_not_compared(name, kind, message, copied, monkeypatch):
    # verdicts of a judge that costs nothing would be made again
    monkeypatch.setattr("derta.pipeline.model_results.uses_model", lambda judge: judge == "harm")
    changed = {"model": "b"} if kind is Verdict else {"model": "b", "dtype": "bfloat16"}
    edit(copied / "derta-seed0" / name, kind, producer=lambda old: {**old, **changed})
    with pytest.raises(RunError, match=message):
        report(copied)


def test_a_report_does_not_shorten_a_file_that_another_process_writes(copied):
    path = copied / "derta-seed0/replies.jsonl"
    torn = path.read_bytes() + b'{"prompt_id": "dir'
    path.write_bytes(torn)
    report(copied)
    assert path.read_bytes() == torn


def test_scores_on_other_requests_are_not_kept_for_a_model_whose_weights_were_deleted(finished, copied, monkeypatch):
    class TrainsAgainError(Exception):
        pass

    def trains(*_, **__):
        raise TrainsAgainError

    monkeypatch.setattr(run_module, "train_model", trains)
    for home in copied.glob("*-seed0"):
        shutil.rmtree(home / "model")
    recipe = load_recipe(finished.recipe)
    run(recipe, out=copied)
    with pytest.raises(TrainsAgainError):
        run(load_recipe(finished.recipe, overrides={"profile_answers": 1}), out=copied)


def test_a_base_model_that_changes_during_a_run_stops_it(tmp_path, tiny_model_dir, monkeypatch):
    weights = Path(shutil.copytree(tiny_model_dir, tmp_path / "weights"))
    recipe = load_recipe(small_recipe(tmp_path, weights), overrides={"methods": ["base"], "evaluate": []})

    def changes(*_, **__):
        with (weights / "model.safetensors").open("ab") as file:
            file.write(b" ")

    monkeypatch.setattr(run_module, "generate_replies", changes)
    with pytest.raises(RunError, match="expected the same files during the whole run"):
        run(recipe, out=tmp_path / "run")


def test_a_chat_template_is_an_input_of_training(tmp_path, tiny_model_dir):
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages }}")
    path = small_recipe(tmp_path, tiny_model_dir)
    values = yaml.safe_load(path.read_text())
    values["model"]["template"] = str(template)
    path.write_text(yaml.safe_dump(values))
    assert template in training_files(load_recipe(path))


class StoppedError(Exception):
    """The training was stopped."""


@pytest.fixture
def initial(tmp_path):
    """A folder with an adapter."""
    folder = tmp_path / "initial"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_text("first")
    return folder


def stops(*_, out, **__):
    """Leave a checkpoint, as a training that is stopped does."""
    (out.with_name(out.name + ".checkpoints") / "checkpoint-1").mkdir(parents=True)
    raise StoppedError


def test_a_fine_tuning_does_not_resume_on_an_adapter_that_changed(initial, tmp_path, tiny_model_dir, monkeypatch):
    monkeypatch.setattr(fine_tuning_folder, "fine_tune", stops)
    helpful = write_jsonl(tmp_path / "helpful.jsonl", [{"instruction": "Tea?", "output": "Boil water."}])

    def fine_tune():
        fine_tuning_folder.fine_tune_folder(
            str(tiny_model_dir),
            adapter=initial,
            helpful=[helpful],
            harmful=[],
            exclude=[],
            steps=1,
            settings={},
            seed=0,
            out=tmp_path / "out",
        )

    with pytest.raises(StoppedError):
        fine_tune()
    (initial / "adapter_model.safetensors").write_text("other")
    with pytest.raises(RunError, match=r"adapter_model\.safetensors has changed since"):
        fine_tune()


def test_dpo_does_not_resume_on_an_initial_model_that_changed(initial, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(method, "train_method", stops)
    loaded = load_recipe(recipe)
    with pytest.raises(StoppedError):
        method.train_one(loaded, method="dpo", out=tmp_path / "out", init_from=initial)
    (initial / "adapter_model.safetensors").write_text("other")
    with pytest.raises(RunError, match=r"adapter_model\.safetensors has changed since"):
        method.train_one(loaded, method="dpo", out=tmp_path / "out", init_from=initial)


@pytest.mark.parametrize("changed", ["target", "attacker", "options"])
def test_prompts_of_a_search_with_other_models_or_files_are_searched_again(changed, recipe, tmp_path, tiny_model_dir):
    attacker = Path(shutil.copytree(tiny_model_dir, tmp_path / "attacker"))
    section = {
        "attack": "multi_turn",
        "requests": "held_out",
        "options": {"turns": [1], "max_new_tokens": 3},
        "search": {"attacker": {"model": str(attacker)}},
    }
    values = yaml.safe_load(recipe.read_text()) | {"evaluate": [section]}
    recipe.write_text(yaml.safe_dump(values))
    queried, target, requests = [], {"model": "a"}, [Request(id="tea", text="Tea?", category="food")]
    engine = ScriptedModel(lambda prompt: queried.append(prompt) or "Wait.")

    def search():
        queried.clear()
        add_searched_prompts(
            load_recipe(recipe), [], engine=engine, target=target, home=tmp_path / "home", held_out=requests
        )
        return len(queried)

    assert (search(), search()) == (1, 0)
    match changed:
        case "target":
            target["model"] = "b"
        case "attacker":
            (attacker / "config.json").write_text((attacker / "config.json").read_text() + " ")
        case _:
            requests[0] = requests[0].model_copy(update={"harmful": "Boil it."})
    assert search() == 1


def test_a_calibration_of_another_version_of_a_judge_is_refused(tmp_path):
    labels = write_jsonl(tmp_path / "labels.jsonl", [{"question": "q", "response": "Sorry, no.", "label": 1}])
    judge, out = build_judge("refusal"), tmp_path / "c.json"
    calibrate_file(labels, judge=judge, out=out)
    assert read_calibration(out, judge=judge).producer == judge_producer(judge)
    out.write_text(json.dumps(json.loads(out.read_text()) | {"producer": {"judge": "refusal", "code": "0"}}))
    with pytest.raises(DataError, match="expected the calibration of this refusal, got that of another one"):
        read_calibration(out, judge=judge)


def test_a_share_of_steps_is_part_of_the_judge():
    strict, mild = (judge_producer(build_judge("steps", share=share)) for share in (0.9, 0.5))
    assert strict != mild


def test_a_models_own_code_and_a_file_that_keeps_its_time_and_size_change_its_hash(tmp_path):
    (tmp_path / "model.safetensors").write_text("first")
    (tmp_path / "modeling.py").write_text("1")
    hashes = [model_hash(tmp_path)]
    times = (tmp_path / "model.safetensors").stat()
    (tmp_path / "model.safetensors").write_text("other")
    os.utime(tmp_path / "model.safetensors", ns=(times.st_atime_ns, times.st_mtime_ns))
    hashes.append(model_hash(tmp_path))
    (tmp_path / "modeling.py").write_text("2")
    hashes.append(model_hash(tmp_path))
    assert len(set(hashes)) == 3


def test_the_commit_of_a_hub_model_is_known_before_its_first_use_and_is_the_one_that_is_loaded(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached, loaded = [], []

    def download(name, file, revision=None):
        if file == "adapter_config.json":
            raise EntryNotFoundError("404")
        cached.append(str(tmp_path / commit / file))

    def from_pretrained(path, **settings):
        loaded.append((path, settings.get("revision")))

    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda name, file, revision=None: next(iter(cached), None)
    )
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", from_pretrained)
    load_model_config("org/name")
    assert model_hash("org/name") == f"org/name@{commit}"
    load_model_config("org/name")
    assert loaded == [("org/name", None), ("org/name", commit)]


def test_models_are_not_trained_further_from_another_commit_of_a_hub_model(recipe, tmp_path, monkeypatch):
    loaded = load_recipe(recipe)
    assert hub_base(loaded) == {}
    monkeypatch.setattr("derta.pipeline.data.model_hash", lambda path: f"{path}@1")
    model = loaded.model.model_copy(update={"path": "org/name"})
    assert hub_base(loaded.model_copy(update={"model": model})) == {"base_model": "org/name@1"}


LIMIT = 8


def longer_than(limit):
    return lambda prompt, reply: len(reply.text) > limit


def test_values_that_a_users_judge_reads_are_part_of_it(monkeypatch):
    def is_long(prompt, reply):
        return len(reply.text) > LIMIT

    def identity(judge):
        return judge_producer(build_judge(judge, name="long"))

    assert identity(longer_than(8)) == identity(longer_than(8)) != identity(longer_than(9))
    before = identity(is_long)
    monkeypatch.setitem(globals(), "LIMIT", 9)
    assert identity(is_long) != before


def test_a_judge_that_counts_its_calls_stays_the_same():
    calls = 0

    def counts(prompt, reply):
        nonlocal calls
        calls += 1

    judge = build_judge(counts, name="counts")
    before = judge_producer(judge)
    counts(None, None)
    assert judge_producer(judge) == before


class Longer:
    """A judge object with a setting."""

    name, measures, uses_model = "longer", "harmful", False

    def __init__(self, limit):
        self.limit, self.calls = limit, 0

    def judge(self, cases):
        return iter(())


def test_settings_of_a_users_judge_object_are_part_of_it():
    assert judge_producer(Longer(8)) == judge_producer(Longer(8)) != judge_producer(Longer(9))


def test_a_model_that_another_process_finishes_before_the_lock_is_not_taken_for_this_training(tmp_path, monkeypatch):
    model, real = tmp_path / "model", run_folder.lock

    def lock_after_the_other(path):
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text("{}")
        return real(path)

    monkeypatch.setattr(run_folder, "lock", lock_after_the_other)
    with (
        pytest.raises(RunError, match="expected a new folder, found one"),
        run_folder.record_origin(model, recipe={}, inputs=[]),
    ):
        pass
    assert list(tmp_path.iterdir()) == [model]
