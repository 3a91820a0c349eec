import json
import shutil

import pytest

from derta.config import CalibrationSection, SourceSection, load_recipe
from derta.errors import DertaError, RecipeError, RunError
from derta.files import read_records
from derta.pipeline import models
from derta.pipeline.data import prepare_data, read_profile
from derta.pipeline.estimate import estimate
from derta.pipeline.registry import Registry
from derta.pipeline.report import report
from derta.pipeline.run import run
from derta.pipeline.run_threshold import benign_answers
from derta.records import Prompt, Reply
from derta.thresholds import read_threshold
from small_run import small_recipe, write_jsonl

THRESHOLD = {"refusal_threshold": {"false_alarm": 0.4}}
DECODED = {"method_settings": {"derta_threshold": {"method": "derta", **THRESHOLD}}}
BOTH = {"methods": ["derta", "derta_threshold"], **DECODED}


@pytest.fixture
def untrainable(monkeypatch):
    """From the call on, every training is an error."""

    def forbid():
        def refuse(*_, **__):
            raise AssertionError("a model was trained")

        monkeypatch.setattr(models, "tune", refuse)

    return forbid


@pytest.fixture(scope="module")
def decoded(tmp_path_factory, finished):
    """The finished run of vanilla and DeRTa, continued with DeRTa's model under a threshold. Read only."""
    home = tmp_path_factory.mktemp("decoded")
    folder = shutil.copytree(finished.folder, home / "run")
    recipe = load_recipe(finished.recipe, overrides={**BOTH, "methods": ["vanilla", "derta", "derta_threshold"]})
    return recipe, folder, run(recipe, out=folder)


def replies_of(folder, name):
    return list(read_records(folder / f"{name}-seed0/replies.jsonl", Reply))


def test_a_finished_run_takes_a_method_that_only_decodes(decoded, finished):
    _, folder, summary = decoded
    home = folder / "derta_threshold-seed0"
    assert not (home / "model").exists()
    [derta] = {reply.producer["model"] for reply in replies_of(folder, "derta")}
    [(model, threshold)] = {
        (reply.producer["model"], reply.producer["refusal_threshold"])
        for reply in replies_of(folder, "derta_threshold")
    }
    assert (model, read_threshold(home / "threshold.json").model) == (derta, {"model": derta})
    assert threshold
    assert replies_of(folder, "derta") == replies_of(finished.folder, "derta")
    assert (home / "scores.json").read_text() == (folder / "derta-seed0/scores.json").read_text()
    assert [point.method for point in summary.frontier.points] == ["vanilla", "derta", "derta_threshold"]
    [note] = [note for note in summary.notes if "refusals are forced" in note]
    assert note.startswith("derta_threshold, seed 0: ")
    assert "of 2 benign replies reach it" in note
    assert note in (folder / "report.html").read_text()
    training = json.loads((folder / "manifest.json").read_text())["training"]
    assert (training["methods"], training["method_settings"]) == (["vanilla", "derta"], {})


@pytest.mark.extra
def test_it_resumes_and_a_new_rate_needs_no_training(decoded, tmp_path, untrainable):
    recipe, source, summary = decoded
    folder = shutil.copytree(source, tmp_path / "run")
    untrainable()
    path = folder / "derta_threshold-seed0/threshold.json"
    before = (path.stat().st_mtime_ns, replies_of(folder, "derta_threshold"))
    assert run(recipe, out=folder) == summary == report(folder)
    assert (path.stat().st_mtime_ns, replies_of(folder, "derta_threshold")) == before
    path.unlink()
    with pytest.raises(RunError, match=r"derta_threshold, seed 0: expected replies with the refusal threshold of its"):
        report(folder)
    assert run(recipe, out=folder) == summary
    changed = recipe.model_copy(update={"method_settings": {"derta_threshold": {"method": "derta"} | {
        "refusal_threshold": {"false_alarm": 0.5}}}})  # fmt: skip
    run(changed, out=folder)
    assert read_threshold(path).false_alarm == 0.5
    shutil.rmtree(folder / "derta-seed0/model")
    run(changed, out=folder)  # complete: the weights are not needed any more


def test_the_method_that_it_shares_need_not_be_listed(recipe, tmp_path):
    changes = {**DECODED, "methods": ["derta_threshold"]}
    run(load_recipe(recipe, overrides=changes), out=tmp_path / "run")
    assert (tmp_path / "run/derta-seed0/model").is_dir()
    assert not (tmp_path / "run/derta-seed0/replies.jsonl").exists()
    assert (tmp_path / "run/derta_threshold-seed0/threshold.json").is_file()


def test_each_model_has_its_own_threshold_unless_its_settings_say_otherwise(recipe, tmp_path):
    changes = {
        "methods": ["base", "plain", "number"],
        "seeds": [0, 1],
        "generate.refusal_threshold": {"false_alarm": 0.4, "per": "position"},
        "method_settings": {
            "plain": {"method": "base", "refusal_threshold": None},
            "number": {"method": "base", "refusal_threshold": 0.001},
        },
    }
    run(load_recipe(recipe, overrides=changes), out=tmp_path / "run")
    assert read_threshold(tmp_path / "run/base-seed0/threshold.json").per == "position"
    for name, value in (("plain", None), ("number", "0.001")):
        assert {reply.producer.get("refusal_threshold") for reply in replies_of(tmp_path / "run", name)} == {value}
        assert not (tmp_path / f"run/{name}-seed0/threshold.json").exists()


def test_a_model_that_is_attacked_by_fine_tuning_is_shared_and_calibrated_again(recipe, tmp_path):
    attack = {"name": "tuned", "steps": 1, "helpful": [{"path": str(tmp_path / "helpful.jsonl")}]}
    attack["pace"] = {"learning_rate": 1e-2, "global_batch_size": 2}
    run(load_recipe(recipe, overrides={**BOTH, "fine_tuning_attacks": [attack]}), out=tmp_path / "run")
    folders = [tmp_path / f"run/{name}-seed0" for name in ("derta_threshold", "derta_threshold+tuned+1")]
    first, attacked = (read_threshold(folder / "threshold.json") for folder in folders)
    assert attacked.model != first.model
    assert attacked.model["model"] == replies_of(tmp_path / "run", "derta+tuned+1")[0].producer["model"]
    assert not any((folder / "model").exists() for folder in folders)


def test_a_ban_wins_over_the_threshold_of_a_run(recipe, tmp_path):
    sections = [{"attack": attack, "requests": "held_out"} for attack in ("direct", "refusal_ban")]
    settings = {"forced": {"method": "base", "refusal_threshold": 1e-9}}
    changes = {"methods": ["base", "forced"], "method_settings": settings, "evaluate": sections}
    run(load_recipe(recipe, overrides=changes), out=tmp_path / "run")
    prompts = {prompt.id: prompt for prompt in read_records(tmp_path / "run/prompts.jsonl", Prompt)}
    for reply in replies_of(tmp_path / "run", "forced"):
        assert reply.text.strip().startswith("Sorry") == (prompts[reply.prompt_id].attack == "direct")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"false_alarm": 0.01}, r"expected at least 99 benign answers .* got 2 \(2 held-out helpful, 0 unused counter"),
        ({"false_alarm": 0.4, "by_depth": True}, "expected at least 4 benign answers"),
        ({"false_alarm": 0.4, "limit": 1}, "expected at least 2 benign answers"),
        ({"false_alarm": 0.4, "per": "token"}, "refusal_threshold"),
        ({"false_alarm": 0.4, "per": "position", "by_depth": True}, "expected a rate per reply with by_depth"),
        ("threshold.json", "expected a number or a calibration"),
        (2, "refusal_threshold"),
    ],
)
def test_a_calibration_that_cannot_be_stops_the_run_before_training(recipe, tmp_path, untrainable, section, message):
    untrainable()
    changes = {"methods": ["mine"], "method_settings": {"mine": {"method": "derta", "refusal_threshold": section}}}
    with pytest.raises(RecipeError, match=message):
        run(load_recipe(recipe, overrides=changes), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mine": {"method": "drta", **THRESHOLD}}, "unknown method 'drta'"),
        ({"mine": {"method": "other", **THRESHOLD}, "other": {"method": "derta", **THRESHOLD}}, "unknown method 'oth"),
        ({"other": {"method": "derta", **THRESHOLD}, "mine": {"method": "dpo", "init_from": "other"}}, "use that"),
    ],
)
def test_only_a_trained_method_can_be_shared(recipe, settings, message):
    with pytest.raises(RecipeError, match=message):
        Registry().with_methods_of(load_recipe(recipe, overrides={"method_settings": settings}))


def test_other_settings_beside_the_threshold_are_a_training(recipe):
    loaded = load_recipe(
        recipe, overrides={"method_settings": {"mine": {"method": "derta", "rto_weight": 2, **THRESHOLD}}}
    )
    registry = Registry().with_methods_of(loaded)
    assert (registry.weights_of("mine"), registry.shared) == ("mine", {})
    assert loaded.settings_of("mine") == {"rto_weight": 2}


@pytest.mark.parametrize("words", [("train",), ("data",)])
def test_a_method_that_only_decodes_cannot_be_trained(recipe, tmp_path, derta, words):
    values = json.dumps(DECODED["method_settings"])
    called = derta(*words, recipe, "--method", "derta_threshold", "--out", tmp_path / "out",
                   "--set", f"method_settings={values}")  # fmt: skip
    assert called.code == 2
    assert "got one that decodes the models of derta; use derta" in called.err


def counter_recipe(folder, model, **settings):
    write_jsonl(
        folder / "counter.jsonl",
        [{"instruction": f"How do I repair a {i}?", "output": f"Take a {i} and glue."} for i in range(9)],
    )
    path = small_recipe(folder, model, methods=["derta", "balanced", "mine"])
    settings = {
        "balanced": {"completion_per_triple": 0, "counter_per_triple": 2},
        "mine": {"method": "balanced", **settings},
    }
    changes = {"data.counter": [{"path": str(folder / "counter.jsonl")}], "method_settings": settings}
    return load_recipe(path, overrides=changes)


def with_threshold(recipe):
    return recipe.generate.model_copy(update={"refusal_threshold": CalibrationSection(false_alarm=0.4)})


def test_look_alikes_that_no_calibrated_model_learns_are_calibrated_on(tmp_path, tiny_model_dir):
    recipe = counter_recipe(tmp_path, tiny_model_dir, **THRESHOLD)
    registry = Registry().with_methods_of(recipe)
    prepared = prepare_data(recipe, registry)
    for seed in (0, 1):
        found = benign_answers(recipe, prepared, seed=seed, registry=registry)
        trained = prepared.training_set(triples_per_unit=1, seed=seed)
        assert [one.id for one in found.counter] == [one.id for one in trained.counter[4:]]  # 2 of 2 triples each
        assert found.held_out == prepared.held_out_examples
        assert not {one.id for one in found.examples} & {one.id for one in trained.examples}
    two = recipe.model_copy(update={"methods": ["mine", "derta"], "generate": with_threshold(recipe)})
    assert len(benign_answers(two, prepared, seed=0, registry=registry).counter) == 5  # derta alone takes none
    own = recipe.model_copy(update={"profile_examples": recipe.data.helpful[0]})
    assert {one.id for one in trained.examples} & {one.id for one in read_profile(own)}
    found = benign_answers(own, prepared, seed=1, registry=registry)
    assert not {one.id for one in found.examples} & {one.id for one in trained.examples}
    limited = benign_answers(recipe, prepared, seed=0, registry=registry).first(1)
    assert (len(limited.held_out), len(limited.counter)) == (1, 1)


def test_examples_of_the_profile_are_calibrated_on_instead_of_held_out_ones(tmp_path, tiny_model_dir):
    recipe = counter_recipe(tmp_path, tiny_model_dir, **THRESHOLD)
    path = write_jsonl(tmp_path / "mine.jsonl", [{"instruction": f"Fold {i}.", "output": f"In {i}."} for i in range(5)])
    recipe = recipe.model_copy(update={"profile_examples": SourceSection(path=str(path))})
    registry = Registry().with_methods_of(recipe)
    found = benign_answers(recipe, prepare_data(recipe, registry), seed=0, registry=registry)
    assert [one.messages[0].content for one in found.held_out] == [f"Fold {i}." for i in range(5)]
    assert len(found.counter) == 5  # 9, of which balanced takes 4


def test_a_dry_run_names_the_missing_answers(recipe, tmp_path):
    changes = {"methods": ["base"], "generate.refusal_threshold": {"false_alarm": 0.01}}
    with pytest.raises(RecipeError, match="refusal_threshold of base: expected at least 99 benign answers"):
        estimate(load_recipe(recipe, overrides=changes))


def test_a_recipe_without_a_threshold_has_no_calibration(recipe):
    assert all(load_recipe(recipe).threshold_of(method) is None for method in ("vanilla", "derta"))


def test_an_unlisted_threshold_is_validated(recipe):
    changes = {"method_settings": {"derta": {"refusal_threshold": 0.5}}, "generate.engine": "vllm"}
    with pytest.raises(DertaError, match="expected the engine hf with a refusal_threshold, got vllm"):
        load_recipe(recipe, overrides=changes)
