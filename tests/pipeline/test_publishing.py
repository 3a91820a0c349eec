"""Publishing a trained model of a run: files, card, refusals, and the hub (a stand-in; no network)."""

import json
import shutil
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub.errors import HFValidationError

from derta import load_engine
from derta.errors import DataError, RecipeError, RunError
from derta.pipeline.publishing import Hub, publish
from derta.pipeline.run import run
from small_run import small_recipe


class FakeHub:
    """What the hub was asked for."""

    def __init__(self, *, private=False, fault=None):
        self.calls, self.private, self.fault = [], private, fault

    def create_repo(self, name, *, private, exist_ok):
        if self.fault:
            raise self.fault
        self.calls.append(("repo", name, private, exist_ok))
        return f"https://hub/{name}"

    def repo_info(self, name):
        return SimpleNamespace(private=self.private)

    def create_branch(self, name, *, branch, exist_ok):
        self.calls.append(("branch", branch))

    def create_commit(self, name, operations, *, commit_message, revision):
        self.calls.append(("commit", revision, {one.path_in_repo: one.path_or_fileobj for one in operations}))


@pytest.fixture
def hub(monkeypatch):
    """A hub that accepts everything, and a token."""
    fake = FakeHub()
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    return fake


def test_a_published_folder_loads_as_a_model_and_has_its_card(finished, tmp_path):
    result = publish(finished.folder / "derta-seed0", out=tmp_path / "out", license="mit")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= names
    assert names == set(result.files)
    assert result.card == (tmp_path / "out/README.md").read_text()
    reply = next(iter(load_engine(tmp_path / "out", device="cpu").generate([prompt(finished)], max_new_tokens=2)))
    assert reply.token_ids
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def prompt(finished):
    from derta.files import read_records
    from derta.records import Prompt

    return next(iter(read_records(finished.folder / "prompts.jsonl", Prompt)))


def test_the_card_has_no_text_of_the_data_and_no_local_path(finished, tmp_path):
    publish(finished.folder / "derta-seed0", out=tmp_path / "out")
    texts = [json.loads(line) for line in (finished.recipe.parent / "triples.jsonl").read_text().splitlines()]
    replies = [json.loads(line) for line in (finished.folder / "derta-seed0/replies.jsonl").read_text().splitlines()]
    secret = [value for row in texts for value in row.values()] + [
        row["text"] for row in replies if len(row["text"]) > 8
    ]
    card = (tmp_path / "out/README.md").read_text()
    assert not [text for text in secret if text in card]
    for path in (tmp_path / "out").iterdir():
        assert str(finished.recipe.parent).encode() not in path.read_bytes(), path


def test_the_card_has_the_runs_rates_hashes_and_settings(finished, tmp_path):
    card = publish(finished.folder / "derta-seed0", out=tmp_path / "out").card
    summary = json.loads((finished.folder / "summary.json").read_text())
    point = next(one for one in summary["frontier"]["points"] if one["method"] == "derta")
    for axis, one in point["rates"].items():
        value, low, high = (f"{100 * one[key]:.1f}" for key in ("value", "low", "high"))
        assert f"| {value} | {low}–{high} | {one['scored']}" in card, axis
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    data = str(finished.recipe.parent / "triples.jsonl")
    assert manifest["inputs"][data] in card
    assert "| `learning_rate` | 0.001 |" in card
    assert "- `harm`: " in card
    assert "# derta on " in card


def test_a_licence_of_the_data_is_named_by_the_source(finished, tmp_path):
    given = {"triples.jsonl": "CC-BY-4.0"}
    card = publish(finished.folder / "derta-seed0", out=tmp_path / "out", data_licenses=given).card
    assert "`triples.jsonl` | CC-BY-4.0" in card
    assert "`helpful.jsonl` | unknown: state it" in card
    with pytest.raises(RecipeError, match=r"no source 'triple.jsonl'.*did you mean 'triples.jsonl'"):
        publish(finished.folder / "derta-seed0", out=tmp_path / "b", data_licenses={"triple.jsonl": "MIT"})


def test_an_adapter_names_its_base_model_on_the_hub(tmp_path, tiny_model_dir):
    lora = {
        "max_steps": 1,
        "global_batch_size": 2,
        "per_device_train_batch_size": 2,
        "max_length": 96,
        "lora": {"r": 2},
    }
    recipe = small_recipe(tmp_path, tiny_model_dir, methods=["derta"], train=lora, profile_answers=0)
    run(recipe, out=tmp_path / "run")
    with pytest.raises(RunError, match="--base-model ORG/NAME"):
        publish(tmp_path / "run/derta-seed0", out=tmp_path / "out")
    publish(tmp_path / "run/derta-seed0", out=tmp_path / "out", base_model="org/base")
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"
    values = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---\n")[1])
    assert (values["library_name"], values["base_model"]) == ("peft", "org/base")
    assert "# derta on org/base\n" in (tmp_path / "out/README.md").read_text()
    assert not [path for path in (tmp_path / "out").iterdir() if str(tiny_model_dir).encode() in path.read_bytes()]


def test_a_push_is_one_commit_of_all_files_to_the_revision(finished, hub, caplog):
    result = publish(finished.folder / "derta-seed0", hub=Hub("me/mine", revision="v1"), license="mit")
    repo, branch, (_, revision, files) = hub.calls
    assert repo == ("repo", "me/mine", None, True)
    assert (branch, revision) == (("branch", "v1"), "v1")
    assert set(files) == set(result.files)
    assert b"# mine" in files["README.md"]
    assert (result.url, result.folder) == ("https://hub/me/mine", None)
    assert "hf_planted" not in caplog.text + result.card


def test_a_private_push_never_writes_into_a_public_repository(finished, hub):
    with pytest.raises(RunError, match="expected a private repository, but me/mine is public"):
        publish(finished.folder / "derta-seed0", hub=Hub("me/mine", private=True))
    assert [name for name, *_ in hub.calls] == ["repo"]
    hub.private = True
    publish(finished.folder / "derta-seed0", hub=Hub("me/mine", private=True))
    assert [name for name, *_ in hub.calls] == ["repo", "repo", "commit"]


@pytest.mark.parametrize("fault", [OSError("403 Forbidden"), HFValidationError("bad name")], ids=["refused", "name"])
def test_a_hub_that_refuses_is_one_line(finished, hub, fault):
    hub.fault = fault
    with pytest.raises(RunError, match=r"--push me/mine: the hub did not accept it \((403|bad)"):
        publish(finished.folder / "derta-seed0", hub=Hub("me/mine"))


def test_a_push_without_a_token_or_a_name_stops_before_anything_is_read(finished, hub, monkeypatch):
    with pytest.raises(RunError, match=r"--push: expected ORG/NAME, got 'mine'"):
        publish(finished.folder / "derta-seed0", hub=Hub("mine"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(RunError, match="in HF_TOKEN, found none"):
        publish(finished.folder / "derta-seed0", hub=Hub("me/mine"))
    assert hub.calls == []


def copied(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    return tmp_path / "run"


def test_weights_that_the_run_did_not_measure_are_refused(finished, tmp_path):
    folder = copied(finished, tmp_path)
    shutil.copy(folder / "vanilla-seed0/model/model.safetensors", folder / "derta-seed0/model/model.safetensors")
    with pytest.raises(RunError, match="got those of other weights"):
        publish(folder / "derta-seed0", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_after_an_attack_is_refused(finished, tmp_path):
    folder = copied(finished, tmp_path)
    contents = json.loads((folder / "run.json").read_text())
    contents["models"][1]["fine_tuning"] = "harmful"
    (folder / "run.json").write_text(json.dumps(contents))
    with pytest.raises(RunError, match="got one after the attack harmful"):
        publish(folder / "derta-seed0", out=tmp_path / "out")


def test_a_run_that_is_not_finished_or_not_judged_is_refused(finished, tmp_path):
    folder = copied(finished, tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "frontier": None}))
    with pytest.raises(RunError, match="expected rates of derta, found none; add judges"):
        publish(folder / "derta-seed0", out=tmp_path / "out")
    (folder / "summary.json").unlink()
    with pytest.raises(DataError, match=r"summary\.json: cannot read it"):
        publish(folder / "derta-seed0", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", r"got the run; name one of: derta-seed0, vanilla-seed0"),
        ("dert-seed0", r"did you mean 'derta-seed0'\?"),
        ("../nowhere/x", r"expected a run's folder with a run\.json"),
    ],
)
def test_a_path_that_is_no_model_of_a_run_is_refused(finished, tmp_path, path, message):
    with pytest.raises(RunError, match=message):
        publish(finished.folder / path, out=tmp_path / "out")


def test_an_untrained_model_is_refused(finished, tmp_path):
    folder = copied(finished, tmp_path)
    shutil.rmtree(folder / "derta-seed0/model")
    with pytest.raises(RunError, match="expected a trained model, found none: derta is evaluated as it is"):
        publish(folder / "derta-seed0", out=tmp_path / "out")


def test_an_existing_folder_is_not_written(finished, tmp_path):
    with pytest.raises(RunError, match="expected a new folder, found one"):
        publish(finished.folder / "derta-seed0", out=tmp_path)
