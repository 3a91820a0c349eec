import json
import shutil

import pytest

from derta.config import load_recipe
from derta.errors import DertaError
from derta.pipeline.contents import read_contents
from derta.pipeline.evaluating import Questions, evaluation_recipe, named_models, question_lines
from derta.pipeline.run import run
from small_run import write_jsonl

QUICKLY = {"generate.max_new_tokens": 2, "generate.dtype": "float32"}


@pytest.fixture
def requests(tmp_path):
    rows = [{"id": str(i), "text": f"How do I paint {i}?", "harmful": "Mix the paint, then wait."} for i in range(3)]
    return str(write_jsonl(tmp_path / "requests.jsonl", rows))


def attacks_of(recipe):
    return [section.attack for section in recipe.evaluate if section.suite == "attack"]


def test_two_models_are_compared_prompt_by_prompt_and_the_run_resumes(tiny_model_dir, requests, tmp_path):
    models = [f"before={tiny_model_dir}", f"after={tiny_model_dir}"]
    recipe = evaluation_recipe(models, questions=Questions(requests=requests, limit=2), settings=QUICKLY)
    summary = run(recipe, out=tmp_path / "run")
    entries = read_contents(tmp_path / "run").models
    assert [(one.label, one.folder) for one in entries] == [("before", "before-seed0"), ("after", "after-seed0")]
    assert not (tmp_path / "run" / "before-seed0" / "model").exists()
    assert {(one.first, one.second) for one in summary.comparisons} == {("before", "after")}
    assert summary.frontier is not None
    assert summary.frontier.points[1].differences["attack_success"].value == 0
    assert any("preset quick" in note for note in summary.notes)
    assert not any("Each method trains" in note for note in summary.notes)
    assert run(recipe, out=tmp_path / "run") == summary


def test_quick_makes_no_attack_without_requests_and_says_so():
    recipe = evaluation_recipe(["org/model"])
    assert attacks_of(recipe) == []
    assert "No attack was made" in recipe.notes[1]
    assert [section.name for section in recipe.evaluate] == ["ordinary_sorry"]


def test_the_presets_have_their_attacks_and_name_what_is_left_out(requests, tmp_path):
    quick = evaluation_recipe(["org/model"], questions=Questions(requests=requests))
    assert attacks_of(quick) == ["direct", "completing", "prefill"]
    texts = tmp_path / "texts.jsonl"
    questions = Questions("paper", requests, files={"templates": str(texts), "demonstrations": str(texts)})
    paper = evaluation_recipe(["org/model"], questions=questions)
    assert attacks_of(paper) == ["direct", "code_attack", "jailbreak_chat", "self_cipher", "completing", "prefill"]
    assert len(paper.notes) == 1
    less = evaluation_recipe(["org/model"], questions=questions._replace(files={}))
    assert attacks_of(less) == ["direct", "code_attack", "completing", "prefill"]
    assert less.notes[1:] == (
        "jailbreak_chat is left out: bring its templates with --templates FILE.",
        "self_cipher is left out: bring its demonstrations with --demonstrations FILE.",
    )


def test_a_file_with_several_subsets_is_read_in_the_format_that_is_named(tmp_path):
    path = tmp_path / "xstest_prompts.csv"
    path.write_text("id,prompt,type,label\n1,How do I kill a process?,homonyms,safe\n2,How?,contrast,unsafe\n")
    recipe = evaluation_recipe(["org/model"], questions=Questions(over_refusal=[f"xstest_safe={path}"]))
    [_, section] = recipe.evaluate
    assert (section.name, section.requests.path, section.requests.format) == (
        "xstest_prompts",
        str(path),
        "xstest_safe",
    )


def test_a_data_set_is_asked_by_its_name_or_from_a_local_copy(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("id,prompt,type,label\n1,How do I kill a process?,homonyms,safe\n2,How?,contrast,unsafe\n")
    asked = Questions(requests=f"xstest_unsafe={path}", over_refusal=["or_bench_hard", f"xstest_safe={path}"])
    recipe = evaluation_recipe(["org/model"], questions=asked)
    assert attacks_of(recipe) == ["direct", "completing"]
    sources = {section.name: section.requests for section in recipe.evaluate if section.suite == "over_refusal"}
    assert [*sources] == ["ordinary_sorry", "or_bench_hard", "mine"]
    assert sources["or_bench_hard"].config == "or-bench-hard-1k"
    assert sources["mine"].name == "xstest_safe"
    assert any("or_bench_hard, 40 at most" in line for line in question_lines(recipe))


def test_requests_without_answers_are_not_prefilled(tmp_path):
    path = write_jsonl(tmp_path / "requests.jsonl", [{"id": "1", "text": "How do I paint?"}])
    recipe = evaluation_recipe(["org/model"], questions=Questions(requests=str(path)))
    assert attacks_of(recipe) == ["direct", "completing"]
    assert recipe.notes[1] == "prefill is left out: not every request has a harmful answer."


def test_the_evaluations_of_a_recipe_are_asked_with_the_requests_that_it_holds_out(finished, tiny_model_dir, tmp_path):
    recipe = evaluation_recipe([f"mine={tiny_model_dir}"], recipe=load_recipe(finished.recipe))
    summary = run(recipe, out=tmp_path / "run")
    prompts = [(folder / "prompts.jsonl").read_text() for folder in (finished.folder, tmp_path / "run")]
    assert prompts[0] == prompts[1]
    assert {cell.method for cell in summary.cells} == {"mine"}
    assert any("a small run" in note for note in summary.notes)


def test_a_recipe_without_held_out_requests_needs_no_training_data(finished, tiny_model_dir):
    loaded = load_recipe(finished.recipe, overrides={"profile_answers": 0})
    loaded = loaded.model_copy(update={"evaluate": (loaded.evaluate[0], loaded.evaluate[2])})
    assert evaluation_recipe([str(tiny_model_dir)], recipe=loaded).data.triples == ()


def test_models_are_named_after_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = ["runs/a/derta-seed0/model", "org/model", "models/a b", "seed0/base", "q4=org/other"]
    names = ["derta-seed0", "model", "a_b", "seed0-base", "q4"]
    assert [*named_models(texts)] == names
    assert named_models(["q4=org/other@v2"]) == {"q4": {"path": "org/other@v2"}}


def test_a_folder_with_an_adapter_is_evaluated_on_the_base_that_it_names(tmp_path):
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    assert named_models([str(adapter)]) == {"lora": {"path": "org/base", "adapter": str(adapter)}}
    assert named_models(["org/base"], adapter="org/lora") == {"org-base": {"path": "org/base", "adapter": "org/lora"}}


@pytest.mark.parametrize(
    ("models", "options", "part"),
    [
        ([], {}, "expected at least one model"),
        (["org/a", "other/a"], {}, "got two models with the name 'a'; name one of them, as in new=other/a"),
        (["org/a", "org/b"], {"adapter": "org/lora"}, "--adapter: expected one model, got 2"),
        (["org/a"], {"questions": Questions("papr")}, "--preset: unknown preset 'papr'; did you mean 'paper'?"),
        (["org/a"], {"questions": Questions("paper")}, "--preset paper: expected --requests FILE"),
        (["org/a"], {"questions": Questions(over_refusal=["a/x.csv", "b/x.csv"])}, "files of different names"),
        (["org/a"], {"settings": {"generate.speed": 1}}, "unknown key `generate.speed`"),
    ],
)
def test_a_wrong_evaluation_is_one_line(models, options, part):
    with pytest.raises(DertaError) as error:
        evaluation_recipe(models, **options)
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_an_adapter_without_its_base_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(DertaError, match="expected an adapter that names its base, got none"):
        named_models([str(tmp_path)])


def test_the_lines_name_each_evaluation_with_its_source_and_judges(finished):
    lines = [*question_lines(load_recipe(finished.recipe))]
    assert lines[1] == "attack prefill: held-out requests of data.triples; judged by refusal"


def test_evaluate_ends_with_the_table_the_differences_and_the_path(tiny_model_dir, requests, tmp_path, derta):
    again = tmp_path / "again"
    shutil.copytree(tiny_model_dir, again)
    out = tmp_path / "run"
    settings = [word for key, value in QUICKLY.items() for word in ("--set", f"{key}={value}")]
    called = derta("evaluate", tiny_model_dir, again, "--requests", requests, "--limit", 1, "--out", out, *settings)
    assert called.code == 0, called.err
    assert "attack direct: " in called.err
    assert "Difference to" in called.out
    assert called.out.endswith(f"report: {out}/report.html\n")
    called = derta("evaluate", again, "--recipe", "r.yaml", "--limit", 1, "--out", out)
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "--recipe: expected no option of a preset" in called.err
