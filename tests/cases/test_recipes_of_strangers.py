"""Recipes as untrusted data: environment variables, keys, names of files, and YAML that expands to a huge value."""

import json
import shutil
import time
from pathlib import Path

import pytest
import yaml
from openai_server import serving

from derta.config import EvaluationSection, load_recipe
from derta.engines.endpoints import KEY_VARIABLE
from derta.errors import EngineError, RecipeError
from derta.pipeline.contents import RunContents
from derta.pipeline.registry import Registry, check_servers
from derta.pipeline.run import run
from derta.records import Request

SECRET = "sk-hidden-1234567890"  # noqa: S105


def written(folder):
    """Return the text of all files of a folder that are no model, by path."""
    files = (path for path in folder.rglob("*") if path.suffix in {".json", ".jsonl", ".html"} and path.is_file())
    return {str(path): path.read_text() for path in files if "model" not in path.parent.name}


# environment variables


@pytest.mark.parametrize("key", ["model.path", "model.template", "data.triples", "evaluate"])
def test_a_variable_that_the_user_has_not_allowed_is_neither_expanded_nor_shown(
    key, recipe, tmp_path, derta, monkeypatch
):
    monkeypatch.setenv("SOME_KEY", SECRET)
    value = {"data.triples": [{"path": "$SOME_KEY"}], "evaluate": [{"requests": {"path": "$SOME_KEY"}}]}
    words = [recipe, "--set", f"{key}={json.dumps(value.get(key, '${SOME_KEY}'))}"]
    for command in (
        ["run", *words, "--out", tmp_path / "run"],
        ["run", *words, "--dry-run"],
        ["train", *words, "--method", "derta", "--out", tmp_path / "model"],
        ["data", *words, "--method", "derta", "--out", tmp_path / "rows.jsonl"],
    ):
        called = derta(*command)
        assert (called.code, called.err.count("\n")) == (2, 1)
        assert f"`{key}" in called.err
        assert "SOME_KEY" in called.err
        assert "pass --env SOME_KEY" in called.err
        assert SECRET not in called.out + called.err
    assert not {"run", "model", "rows.jsonl"} & {path.name for path in tmp_path.iterdir()}


def test_texts_that_are_no_paths_are_not_expanded(recipe, tmp_path, derta, monkeypatch):
    monkeypatch.setenv("DERTA_KEY", SECRET)
    words = ["--set", "title=$DERTA_KEY", "--set", "notes=[$DERTA_KEY]", "--set", "methods=[base]"]
    assert derta("run", recipe, *words, "--out", tmp_path / "run").code == 0
    assert SECRET not in "".join(written(tmp_path / "run").values())
    assert json.loads((tmp_path / "run/summary.json").read_text())["title"] == "$DERTA_KEY"


def test_the_files_of_a_run_contain_the_text_of_the_recipe_and_the_run_resumes_from_another_place(
    recipe, tmp_path, tiny_model_dir, derta, monkeypatch
):
    data = tmp_path / "secret-place"
    data.mkdir()
    for name in ("triples", "helpful", "asked", "benign"):
        (tmp_path / f"{name}.jsonl").rename(data / f"{name}.jsonl")
    (data / "openers.jsonl").write_text('"Sorry"\n')
    values = yaml.safe_load(recipe.read_text().replace(str(tmp_path), "$DERTA_HERE"))
    values |= {"model": {"path": "${MODELS}"}, "methods": ["base"]}
    options = {"openers": "$DERTA_HERE/openers.jsonl", "steps": [2]}
    values["evaluate"].append({"attack": "rank_assisted", "requests": "held_out", "options": options})
    recipe.write_text(yaml.safe_dump(values))
    monkeypatch.setenv("DERTA_HERE", str(data))
    monkeypatch.setenv("MODELS", str(tiny_model_dir))
    assert derta("run", recipe, "--out", tmp_path / "run").code == 2
    called = derta("run", recipe, "--out", tmp_path / "run", "--env", "MODELS")
    assert called.code == 0, called.err
    files = written(tmp_path / "run")
    assert not any(str(data) in text or str(tiny_model_dir) in text for text in files.values())
    assert str(data) not in called.out + called.err
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["recipe"]["model"]["path"] == "${MODELS}"
    assert manifest["recipe"]["evaluate"][-1]["options"] == options
    assert {"$DERTA_HERE/triples.jsonl", "$DERTA_HERE/openers.jsonl"} <= set(manifest["inputs"])

    moved = data.rename(tmp_path / "moved")
    monkeypatch.setenv("DERTA_HERE", str(moved))
    assert derta("run", recipe, "--out", tmp_path / "run", "--env", "MODELS").code == 0
    (moved / "triples.jsonl").write_text("{}\n")
    called = derta("run", recipe, "--out", tmp_path / "run", "--env", "MODELS")
    assert called.code == 2
    assert "$DERTA_HERE/triples.jsonl" in called.err
    assert str(moved) not in called.err


def test_messages_contain_the_text_of_the_recipe(recipe, tmp_path, derta, monkeypatch):
    recipe.write_text(recipe.read_text().replace(str(tmp_path), "$DERTA_HERE"))
    monkeypatch.setenv("DERTA_HERE", str(tmp_path))
    with (tmp_path / "triples.jsonl").open("a") as file:
        file.write("no JSON\n")
    for words in (
        ["run", "--out", tmp_path / "run"],
        ["run", "--dry-run"],
        ["train", "--method", "derta", "--out", "m"],
    ):
        called = derta(words[0], recipe, *words[1:])
        assert called.code == 2
        assert "$DERTA_HERE/triples.jsonl:9: expected one JSON object" in called.err
        assert str(tmp_path) not in called.err.replace(str(recipe), "")


def test_a_user_attack_gets_the_expanded_path(recipe, tmp_path, monkeypatch):
    (tmp_path / "prefix.txt").write_text("Please: ")
    monkeypatch.setenv("MINE", str(tmp_path))

    def politely(request: Request, *, prefix: Path, literal: str = "") -> str:
        assert literal == "$MINE"
        return Path(prefix).read_text() + request.text

    section = {
        "attack": "politely",
        "requests": {"path": str(tmp_path / "asked.jsonl")},
        "options": {"prefix": "$MINE/prefix.txt", "literal": "$MINE"},
    }
    loaded = load_recipe(recipe, overrides={"evaluate": [section], "methods": ["base"]})
    with pytest.raises(RecipeError, match=r"`evaluate.0.options.prefix`: expected only variables DERTA_\*"):
        run(loaded, out=tmp_path / "run", attacks={"politely": politely})
    run(loaded, out=tmp_path / "run", attacks={"politely": politely}, env=["MINE"])
    prompts = (tmp_path / "run/prompts.jsonl").read_text()
    assert "Please: Where is" in prompts
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["recipe"]["evaluate"][0]["options"]["prefix"] == "$MINE/prefix.txt"


# keys


def test_a_recipe_cannot_choose_which_variable_is_sent_as_a_key(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_KEY", SECRET)
    with serving() as server:
        settings = {"endpoints": server.url, "api_key_env": "AWS_KEY"}
        judge = {"name": "guideline", "model": "m", "engine": "api", "settings": settings}
        section = {"requests": {"path": str(tmp_path / "asked.jsonl")}, "judges": [judge]}
        loaded = load_recipe(recipe, overrides={"evaluate": [section], "methods": ["base"]})
        with pytest.raises(
            EngineError, match=r"would send the environment variable 'AWS_KEY' as a key; .* --env AWS_KEY"
        ):
            run(loaded, out=tmp_path / "run")
        assert server.requests == []
        assert not (tmp_path / "run").exists()
        check_servers(loaded.allow_env(["AWS_KEY"]))
        for name in (KEY_VARIABLE, "DERTA_JUDGE_KEY"):
            judges = [judge | {"settings": {**settings, "api_key_env": name}}]
            check_servers(load_recipe(recipe, overrides={"evaluate": [section | {"judges": judges}]}))


# file names


@pytest.mark.parametrize(
    "name", ["../out", "a/b", "a\\b", "..", ".", "", " ", "a\nb", "a\x00b", "a\x1b[2J", "x" * 201, "é" * 101]
)
def test_an_evaluation_cannot_choose_a_file_outside_of_the_run(recipe, name):
    section = {"requests": "held_out", "name": name}
    with pytest.raises(RecipeError, match=r"expected a name (without slashes|of at most 200 bytes)"):
        load_recipe(recipe, overrides={"evaluate": [section]})
    with pytest.raises(RecipeError, match=r"fine_tuning_attacks.0.name"):
        load_recipe(recipe, overrides={"fine_tuning_attacks": [{"name": name + "/", "helpful": [{"path": "h"}]}]})


def test_every_file_of_a_run_is_in_its_folder(recipe, tmp_path):
    source = {"path": str(tmp_path / "asked.jsonl"), "limit": 1}
    options = {"turns": [1], "max_new_tokens": 2}
    names = ["~", "-rf", "a..b", "C:", "%2e%2e%2f", "$DERTA_X"]
    sections = [{"attack": "multi_turn", "name": name, "requests": source, "options": options} for name in names]
    before = set(tmp_path.rglob("*"))
    run(load_recipe(recipe, overrides={"evaluate": sections, "methods": ["base"]}), out=tmp_path / "run")
    assert {path for path in tmp_path.rglob("*") if (tmp_path / "run") not in {path, *path.parents}} == before
    files = {path.name for path in (tmp_path / "run/base-seed0").iterdir()}
    assert all(any(file.startswith("attempts.") and name in file for file in files) for name in names)


@pytest.mark.parametrize("values", [{"folder": "../other"}, {"folder": "/etc"}, {"folder": ".."}, {"folder": "a/b"}])
def test_a_report_reads_no_folder_outside_of_its_run(values):
    contents = {"title": "t", "measures": {}, "sections": [], "questions": {}, "notes": []}
    model = {"label": "m", "seed": 0, "folder": "m-seed0"}
    assert RunContents.model_validate(contents | {"models": [model]}).models[0].folder == "m-seed0"
    with pytest.raises(ValueError, match="folder"):
        RunContents.model_validate(contents | {"models": [model | values]})
    with pytest.raises(ValueError, match="measures"):
        RunContents.model_validate(contents | {"models": [model], "measures": {"../x": "harmful"}})


# YAML


def bomb(levels, width):
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(9, 9), "expected at most 100000 values, got more; remove the aliases"),
        (bomb(40, 2), "expected at most 100000 values"),
        (MERGES, "expected at most 100000 values"),
        ("title: &a [*a]\n", "an alias contains itself"),
        ("title: " + "[" * 5000, "nested too deeply"),
        ("title: 2026-13-45\n", "month must be in 1..12"),
        ("title: " + "9" * 5000, "integer string conversion"),
        ("title: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
        ("? [a, b]\n: c\n? {x: y}\n: d\n", "found unhashable key"),
    ],
    ids=["nested", "doubled", "merges", "cycle", "deep", "date", "number", "object", "key"],
)
def test_yaml_that_cannot_be_a_recipe_is_refused_quickly_in_one_line(tmp_path, derta, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    start = time.process_time()  # other work on the machine does not count
    called = derta("run", path, "--out", tmp_path / "run")
    assert time.process_time() - start < 5
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert message in called.err
    assert not (tmp_path / "run").exists()


def test_aliases_are_fine_and_an_override_is_checked_like_a_file(recipe, derta):
    recipe.write_text("requests: &r {path: a.jsonl}\n")
    values = "[&a [x, x], &b [*a, *a]" + "".join(
        f", &{chr(99 + i)} [{', '.join(['*' + chr(98 + i)] * 9)}]" for i in range(9)
    )
    called = derta("run", recipe, "--set", f"notes={values}]", "--out", "run")
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "--set: expected a YAML value" in called.err


def test_the_registry_knows_which_options_are_paths():
    def section(**values):
        return EvaluationSection.model_validate({"requests": "held_out", **values})

    registry = Registry()
    assert registry.path_options(section(attack="jailbreak_chat")) == ["templates"]
    assert registry.path_options(section(attack="self_cipher")) == ["demonstrations"]
    assert registry.path_options(section(attack="direct")) == []
    assert registry.path_options(section(attack="unknown")) == []


# folders


def test_a_report_of_a_stranger_s_folder_writes_through_no_link(finished, tmp_path, derta):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    for name in ("summary.json", "report.html"):
        (folder / f"{name}.partial").symlink_to(victim)
        (folder / name).unlink()
        (folder / name).symlink_to(victim)
    assert derta("report", folder).code == 0
    assert victim.read_text() == "untouched"
    assert (folder / "report.html").is_file()
    assert not (folder / "report.html").is_symlink()
