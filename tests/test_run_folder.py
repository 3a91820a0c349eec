import errno
import functools
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from derta.errors import RunError
from derta.provenance import hash_file
from derta.run_folder import (
    check_new_model,
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


@pytest.mark.parametrize("text", ['{"recipe"', "[]", '{"name": "a web app"}', "\udcff"])
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
