import errno
import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from derta import run_folder
from derta.errors import RunError
from derta.provenance import hash_file
from derta.run_folder import (
    check_new_model,
    clean_up_training,
    commit,
    finish_folder,
    identify,
    open_run,
    record_origin,
    versions,
)


def start(folder, *, recipe=None, inputs=()):
    """Open a run and leave it again."""
    recipe = RECIPE if recipe is None else recipe
    with open_run(folder, recipe=recipe, training=recipe, inputs=inputs, fixed=inputs) as opened:
        return opened


RECIPE = {"title": "t", "train": {"epochs": 2, "lora": None}, "methods": ("vanilla", "derta")}


@pytest.fixture
def data_file(tmp_path):
    path = tmp_path / "triples.jsonl"
    path.write_text("{}\n")
    return path


def test_a_new_run_writes_what_it_was_made_from(tmp_path, data_file):
    folder = start(tmp_path / "deep" / "run", recipe=RECIPE, inputs=[data_file, data_file])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["recipe"] == {**RECIPE, "methods": ["vanilla", "derta"]}
    assert manifest["inputs"] == {str(data_file): hash_file(data_file)}
    assert manifest["versions"] == versions()
    assert manifest["commit"] == commit()
    assert list(folder.iterdir()) == [folder / "manifest.json"]


def test_versions_are_those_that_can_change_a_result():
    installed = versions()
    assert {"python", "derta", "torch", "transformers"} <= set(installed)
    assert installed["python"] == ".".join(map(str, sys.version_info[:3]))


def test_versions_are_those_of_every_package_that_can_change_a_result(monkeypatch):
    packages = {"derta", "torch", "transformers", "accelerate", "peft", "tokenizers", "trl", "vllm"}
    monkeypatch.setattr(run_folder, "version", lambda package: f"{package} 1")
    assert versions().items() >= {package: f"{package} 1" for package in packages}.items()
    assert set(versions()) == packages | {"python"}


def test_a_package_that_is_missing_is_left_out_and_no_other(monkeypatch):
    monkeypatch.setattr(run_folder, "PACKAGES", ("torch", "no-such-package", "transformers"))
    assert set(versions()) == {"python", "torch", "transformers"}


def test_the_commit_is_that_of_the_source_and_none_outside_of_a_checkout(monkeypatch, tmp_path):
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)  # noqa: S603
    log = subprocess.run([*git, "log", "--format=%H"], check=True, capture_output=True, text=True)  # noqa: S603
    head = log.stdout.strip()
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "run_folder.py"))
    assert commit() == head
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert commit() is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert commit() is None


def test_a_resumed_run_keeps_the_manifest_of_its_start(tmp_path, data_file):
    folder = start(tmp_path / "run", recipe=RECIPE, inputs=[data_file])
    manifest = json.loads((folder / "manifest.json").read_text()) | {"versions": {"torch": "1.0"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    start(folder, recipe=RECIPE, inputs=[data_file])
    assert json.loads((folder / "manifest.json").read_text()) == manifest


def test_an_empty_manifest_among_other_files_is_none(tmp_path):
    (tmp_path / "manifest.json").touch()
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="got files without a manifest; choose another --out"):
        start(tmp_path)
    assert (tmp_path / "manifest.json").read_text() == ""


def test_the_same_run_resumes_in_its_folder(tmp_path, data_file):
    folder = start(tmp_path / "run", recipe=RECIPE, inputs=[data_file])
    before = (folder / "manifest.json").read_bytes()
    (folder / "replies.jsonl").write_text("kept")
    assert start(folder, recipe=RECIPE, inputs=[data_file]) == folder
    assert (folder / "manifest.json").read_bytes() == before
    assert (folder / "replies.jsonl").read_text() == "kept"


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"title": "u"}, "title"),
        ({"train": {"epochs": 3, "lora": None}}, "train.epochs"),
        ({"train": {"epochs": 2, "lora": {"r": 8}}}, "train.lora"),
        ({"methods": ["vanilla"]}, "methods"),
        ({"generate": {"max_new_tokens": 5}}, "generate"),
    ],
)
def test_another_recipe_is_refused_with_the_key_that_differs(tmp_path, changed, key):
    folder = start(tmp_path / "run", recipe=RECIPE, inputs=[])
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(RunError, match=rf"another recipe \(differs in {key}\); choose another --out"):
        start(folder, recipe=RECIPE | changed, inputs=[])
    assert (folder / "manifest.json").read_bytes() == before


def test_another_recipe_is_refused_with_all_keys_in_order_also_where_a_section_became_a_value(tmp_path):
    recipe = RECIPE | {"train": {"epochs": 2, "lora": {"r": 8}}}
    folder = start(tmp_path / "run", recipe=recipe, inputs=[])
    other = {"methods": [], "title": "u", "train": {"epochs": 3, "lora": None}, "a": 1}
    with pytest.raises(RunError, match=r"differs in a, methods, title, train\.epochs, train\.lora\);"):
        start(folder, recipe=other, inputs=[])


def test_an_input_that_changed_is_refused_by_name(tmp_path, data_file):
    folder = start(tmp_path / "run", recipe=RECIPE, inputs=[data_file])
    data_file.write_text("{}\n{}\n")
    with pytest.raises(RunError, match=r"triples.jsonl has changed since this run started"):
        start(folder, recipe=RECIPE, inputs=[data_file])


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="got files without a manifest; choose another --out"):
        start(tmp_path, recipe=RECIPE, inputs=[])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunError, match="expected a new folder or a run folder"):
        start(tmp_path / "run", recipe=RECIPE, inputs=[])


def test_an_empty_folder_is_a_new_run(tmp_path):
    assert (start(tmp_path, recipe=RECIPE, inputs=[]) / "manifest.json").exists()


def test_a_run_killed_while_it_began_begins_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "manifest.json.partial").write_text('{"recipe": {"ti')
    start(folder, recipe=RECIPE, inputs=[])
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("text", ['{"recipe"', "[]", '["recipe", "inputs"]', '{"name": "a web app"}', "\udcff"])
def test_a_manifest_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=r"manifest.json: expected a run's manifest"):
        start(tmp_path, recipe=RECIPE, inputs=[])


def test_a_run_killed_before_its_manifest_was_written_starts_again(tmp_path):
    (tmp_path / "manifest.json").touch()
    start(tmp_path, recipe=RECIPE)
    assert json.loads((tmp_path / "manifest.json").read_text())["recipe"]["title"] == "t"


def test_evaluations_may_change_in_a_run_folder_and_the_manifest_follows(tmp_path):
    training = {"model": "m"}
    for title in ("first", "second"):
        with open_run(tmp_path / "run", recipe={"title": title}, training=training, inputs=[], fixed=[]) as folder:
            assert json.loads((folder / "manifest.json").read_text())["recipe"] == {"title": title}


def test_two_runs_cannot_write_one_folder_at_the_same_time(tmp_path):
    with open_run(tmp_path / "run", recipe=RECIPE, training=RECIPE, inputs=[], fixed=[]) as folder:
        before = (folder / "manifest.json").read_bytes()
        with pytest.raises(RunError, match="another process writes this file"):
            start(folder)
        assert (folder / "manifest.json").read_bytes() == before
    start(folder)


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"manifest.json: cannot write it \(No space left on device\); free space"):
        start(tmp_path / "run", recipe=RECIPE, inputs=[])
    assert list((tmp_path / "run").iterdir()) == []
    monkeypatch.undo()
    start(tmp_path / "run", recipe=RECIPE, inputs=[])


def test_a_finished_folder_gets_its_name_and_replaces_none(tmp_path):
    for name in ("partial", "taken"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(RunError, match=r"taken: cannot finish writing it \(Directory not empty\)"):
        finish_folder(tmp_path / "partial", tmp_path / "taken")
    finish_folder(tmp_path / "partial", tmp_path / "final")
    assert (tmp_path / "final" / "file").read_text() == "partial"
    assert not Path(tmp_path / "partial").exists()


@pytest.fixture
def model(tmp_path):
    return tmp_path / "model"


def train(model, *, recipe=RECIPE, inputs=(), stop=False, **options):
    """Write a checkpoint, and then either stop or finish the model."""
    with record_origin(model, recipe=recipe, inputs=inputs, **options):
        checkpoint = model.with_name("model.checkpoints") / "checkpoint-1"
        checkpoint.mkdir(parents=True, exist_ok=True)
        if stop:
            raise KeyboardInterrupt
        model.mkdir()


def test_a_stopped_training_resumes_with_the_same_recipe_and_inputs_only(model, data_file):
    with pytest.raises(KeyboardInterrupt):
        train(model, inputs=[data_file], stop=True)
    origin = json.loads(model.with_name("model.origin.json").read_text())
    assert origin["inputs"] == {str(data_file): hash_file(data_file)}
    with pytest.raises(RunError, match=r"model\.checkpoints: holds the run of another recipe \(differs in title\)"):
        train(model, recipe=RECIPE | {"title": "u"}, inputs=[data_file])
    train(model, inputs=[data_file])
    assert not model.with_name("model.origin.json").exists()


def test_a_stopped_training_does_not_resume_on_inputs_that_changed(model, data_file):
    with pytest.raises(KeyboardInterrupt):
        train(model, inputs=[data_file], stop=True)
    data_file.write_text("{}\n{}\n")
    with pytest.raises(RunError, match=r"triples\.jsonl has changed"):
        train(model, inputs=[data_file])


def test_checkpoints_of_unknown_origin_are_refused(model):
    (model.with_name("model.checkpoints") / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(RunError, match=r"model\.checkpoints: expected a new folder, found one"):
        train(model)


def test_a_training_stopped_before_its_first_checkpoint_leaves_no_file(model):
    with pytest.raises(KeyboardInterrupt), record_origin(model, recipe=RECIPE, inputs=[]):
        raise KeyboardInterrupt
    assert [*model.parent.iterdir()] == []


def test_only_the_main_process_writes_the_origin(model):
    with record_origin(model, recipe=RECIPE, inputs=[], is_main_process=False):
        assert not model.with_name("model.origin.json").exists()
    with record_origin(model, recipe=RECIPE, inputs=[]):
        assert model.with_name("model.origin.json").exists()


def test_a_finished_model_is_never_overwritten_and_an_unfinished_one_may_be(model):
    check_new_model(model)
    model.mkdir()
    with pytest.raises(RunError, match="model: expected a new folder, found one; choose another --out, or delete it"):
        check_new_model(model)
    model.with_name("model.origin.json").write_text("{}")
    check_new_model(model)


def define(path, source):
    """The function `praise` of a module file."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.praise


def test_a_function_is_named_by_its_source_in_any_file(tmp_path):
    source = "def praise(text):\n    return text + '!'\n"
    first = identify(define(tmp_path / "a.py", source))
    assert first.startswith("praise@")
    assert identify(define(tmp_path / "b.py", "import json\n\n\n" + source)) == first
    assert identify(define(tmp_path / "c.py", source.replace("!", "?"))) != first


def test_a_version_stands_in_for_the_source():
    assert identify(len, version="2") == "len@2"
    assert identify(test_a_version_stands_in_for_the_source, version="1").endswith("@1")


def test_a_function_without_a_source_needs_a_version():
    typed = {}
    exec("def praise(text): return text", typed)  # noqa: S102 - as a console does
    for function in (len, typed["praise"], functools.partial(identify)):
        with pytest.raises(RunError, match=r"expected a function whose source can be read.*give it a `version=`"):
            identify(function)


def test_an_empty_folder_is_no_output_of_another_training(tmp_path):
    model = tmp_path / "model"
    for folder in (model, tmp_path / "model.checkpoints"):
        folder.mkdir()
    with record_origin(model, recipe=RECIPE, inputs=[]):
        assert (tmp_path / "model.origin.json").exists()
    assert not (tmp_path / "model.origin.json").exists()


def test_what_a_training_that_was_killed_at_its_end_leaves_is_cleaned_up_and_its_logs_are_copied(tmp_path):
    model = tmp_path / "model"
    for name in (
        "model",
        "model.checkpoints/checkpoint-3",
        "model.checkpoints/runs/now",
        "model.partial",
        "model.runs",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "model.checkpoints/runs/now/events").write_text("log")
    (tmp_path / "model.runs/earlier").write_text("log")
    clean_up_training(model)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "model.runs"}
    assert {path.name for path in (tmp_path / "model.runs").iterdir()} == {"now", "earlier"}
    assert (tmp_path / "model.runs/now/events").read_text() == "log"
    clean_up_training(model)  # nothing is left to clean up
    assert {path.name for path in tmp_path.iterdir()} == {"model", "model.runs"}


def test_a_training_without_logs_leaves_no_folder_of_logs(tmp_path):
    (tmp_path / "model.checkpoints/checkpoint-3").mkdir(parents=True)
    clean_up_training(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs the names of open files")
def test_a_folder_is_on_the_disk_before_it_gets_its_name_and_its_name_after(tmp_path, monkeypatch):
    partial, final = tmp_path / "model.partial", tmp_path / "model"
    (partial / "deep").mkdir(parents=True)
    (partial / "deep/weights").write_text("w")
    (tmp_path / "other").write_text("o")
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append((str(Path(f"/proc/self/fd/{fd}").readlink()), final.exists()))
    )
    finish_folder(partial, final)
    assert (final / "deep/weights").read_text() == "w"
    assert synced[-1] == (str(tmp_path), True)
    assert {path for path, _ in synced[:-1]} == {str(partial), str(partial / "deep"), str(partial / "deep/weights")}
    assert not any(has_name for _, has_name in synced[:-1])


def test_a_callable_object_is_identified_by_its_class():
    class Judge:
        def __call__(self):
            return True

    assert identify(Judge(), version="2").endswith("Judge@2")
