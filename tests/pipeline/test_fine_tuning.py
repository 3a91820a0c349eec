"""The fine-tuning attack in a run: where its models stand, what it may not read, and its pace."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from derta.config import TrainSection, load_recipe
from derta.errors import DataError, RunError
from derta.files import read_records
from derta.pipeline import fine_tuning, models
from derta.pipeline.data import input_files, prepare_data
from derta.pipeline.estimate import estimate
from derta.pipeline.fine_tuning import attack_train, fine_tuning_attacks, read_all_attack_data
from derta.pipeline.report import report
from derta.pipeline.run import run
from derta.records import Prompt, Reply
from derta.reporting import read_summary

CHAT_TEMPLATE = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
LABELS = ["vanilla", "derta", "vanilla + benign 2", "derta + benign 2", "vanilla + harmful", "derta + harmful"]
PACE = {"learning_rate": 1e-3, "global_batch_size": 4, "num_train_epochs": 1}


def attacked_recipe(path, folder, **overrides):
    """The small recipe with a benign attack on its helpful file and a harmful one on its triples."""
    attacks = [
        {"name": "benign", "steps": 2, "helpful": [{"path": str(folder / "helpful.jsonl")}], "pace": PACE},
        {"name": "harmful", "harmful": [{"path": str(folder / "triples.jsonl")}], "pace": PACE},
    ]
    evaluate = [
        {"attack": "direct", "requests": {"path": str(folder / "asked.jsonl")}, "judges": ["refusal", "harm"]},
        {"attack": "prefill", "requests": "held_out", "options": {"depths": ["50%"]}},
    ]
    fast = {"fine_tuning_attacks": attacks, "evaluate": evaluate, "train.max_steps": 1, "train.warmup_steps": 0}
    return load_recipe(path, overrides=fast | overrides)


@pytest.fixture
def recipe_attacked(recipe, tmp_path):
    return attacked_recipe(recipe, tmp_path)


def _no_training(*_, **__):
    raise AssertionError("trained again")


def results(folder):
    """What a run left, but for the seconds that fine-tuning took."""
    names = ("replies.jsonl", "verdicts.*.jsonl", "scores.json", "prompts.jsonl")
    return {path.relative_to(folder): path.read_bytes() for name in names for path in folder.rglob(name)}


@pytest.mark.extra
def test_attacked_models_stand_beside_the_others_and_a_stopped_run_goes_on(recipe_attacked, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    summary = run(recipe_attacked, out=folder)
    assert list(dict.fromkeys(cell.method for cell in summary.cells)) == LABELS
    places = {(cell.method, cell.name, cell.judge) for cell in summary.cells if cell.suite == "attack"}
    asked = {("direct", "refusal"), ("direct", "harm"), ("prefill@50%", "refusal")}
    assert places == {(label, *place) for label in LABELS for place in asked}
    page = (folder / "report.html").read_text()
    assert all(label in page for label in LABELS)

    prompts = {prompt.id for prompt in read_records(folder / "prompts.jsonl", Prompt)}
    weights = {}
    for place in ("vanilla", "derta", "vanilla+benign+2", "derta+benign+2", "vanilla+harmful", "derta+harmful"):
        home = folder / f"{place}-seed0"
        assert {reply.prompt_id for reply in read_records(home / "replies.jsonl", Reply)} == prompts
        weights[place] = (home / "model/model.safetensors").read_bytes()
    assert len(set(weights.values())) == len(weights)

    # every comparison pairs the same prompts: with the first method, before and after, and after the same attack
    pairs = {(one.first, one.second) for one in summary.comparisons}
    assert pairs == {
        ("vanilla", "derta"),
        *((method, f"{method} + {attack}") for method in ("vanilla", "derta") for attack in ("benign 2", "harmful")),
        *((f"vanilla + {attack}", f"derta + {attack}") for attack in ("benign 2", "harmful")),
    }
    assert {(one.name, one.pairs) for one in summary.comparisons} == {("direct", 3), ("prefill@50%", 2)}

    # 10 benign rows: 2 are held out; 6 pairs in steps of 4 take 2 steps
    notes = "\n".join(summary.notes)
    assert "fine-tuning attack benign: 10 benign examples; dropped: 2 held_out." in notes
    assert "fine-tuning attack harmful: 6 harmful pairs; dropped: 2 in_evaluation." in notes
    assert "derta + benign 2, seed 0: 2 steps of fine-tuning read 8 rows (" in notes
    assert "vanilla + harmful, seed 0: 2 steps of fine-tuning read 6 rows (" in notes
    assert sum("perplexity" in note for note in summary.notes) == len(LABELS)

    whole = results(folder)
    shutil.rmtree(folder / "derta+benign+2-seed0")

    def stop(_self, arguments, state, _control, **_):
        if "derta+benign" in arguments.output_dir and state.global_step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("derta.pipeline.training.ProgressCallback.on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            run(recipe_attacked, out=folder)
    assert list((folder / "derta+benign+2-seed0/model.checkpoints").glob("checkpoint-*"))
    with pytest.raises(RunError, match=r"derta \+ benign 2 seed 0 is not finished"):
        report(folder)
    run(recipe_attacked, out=folder)
    assert results(folder) == whole

    monkeypatch.setattr(models, "load_format", _no_training)
    monkeypatch.setattr(fine_tuning, "load_format", _no_training)
    before = read_summary(folder / "summary.json")
    for model in folder.glob("*/model"):
        shutil.rmtree(model)
    assert run(recipe_attacked, out=folder) == before == report(folder)
    assert not list(folder.glob("*/model"))
    questions = {(one.question, one.first, one.second) for one in summary.comparisons}
    assert ("methods with the first", "vanilla", "derta") in questions
    assert ("before and after an attack", "derta", "derta + harmful") in questions
    assert ("methods after the same attack", "vanilla + harmful", "derta + harmful") in questions
    expected = "methods with the first (3); before and after an attack (12); methods after the same attack (6)."
    assert expected in page


def test_a_run_with_lora_attacks_the_adapters(recipe, tmp_path):
    lora = {"train.lora": {"r": 4, "lora_alpha": 8}, "methods": ["derta"], "train.max_steps": 1, "evaluate": []}
    loaded = attacked_recipe(recipe, tmp_path, **lora)
    loaded = loaded.model_copy(update={"fine_tuning_attacks": loaded.fine_tuning_attacks[:1]})
    run(loaded, out=tmp_path / "run")
    before, after = (
        load_file(tmp_path / f"run/{place}-seed0/model/adapter_model.safetensors")
        for place in ("derta", "derta+benign+2")
    )
    assert before.keys() == after.keys()
    assert not any(before[name].equal(after[name]) for name in before if "lora_B" in name)
    assert not (tmp_path / "run/derta+benign+2-seed0/model/model.safetensors").exists()


def test_nothing_that_is_evaluated_or_held_out_is_trained_on(recipe_attacked):
    prepared = prepare_data(recipe_attacked)
    data = read_all_attack_data(recipe_attacked, prepared=prepared)
    held_out = {request.text for request in prepared.held_out_requests}
    assert len(held_out) == 2
    assert not held_out & {pair.query for pair in data["harmful"].pairs}
    assert {example.id for example in data["benign"].examples} == {example.id for example in prepared.examples}


def test_the_files_of_an_attack_are_among_those_that_must_not_change(recipe_attacked, tmp_path):
    assert {tmp_path / "helpful.jsonl", tmp_path / "triples.jsonl"} <= set(input_files(recipe_attacked))
    other = tmp_path / "other.jsonl"
    other.write_text('{"instruction": "Tell me.", "output": "A story."}\n')
    section = recipe_attacked.fine_tuning_attacks[0]
    own = section.model_copy(update={"helpful": (section.helpful[0].model_copy(update={"path": str(other)}),)})
    assert other in input_files(recipe_attacked.model_copy(update={"fine_tuning_attacks": (own,)}))


def test_data_that_may_not_be_trained_on_are_refused_before_any_training(recipe, tmp_path):
    asked = {"path": str(tmp_path / "all.jsonl")}
    rows = [json.loads(line)["query"] for line in (tmp_path / "triples.jsonl").read_text().splitlines()]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps({"id": q, "text": q}) + "\n" for q in rows[:2]))
    two = tmp_path / "two.jsonl"
    two.write_text("\n".join((tmp_path / "triples.jsonl").read_text().splitlines()[:2]) + "\n")
    attack = {"name": "harmful", "steps": 1, "harmful": [{"path": str(two)}]}
    loaded = load_recipe(
        recipe, overrides={"fine_tuning_attacks": [attack], "evaluate": [{"attack": "direct", "requests": asked}]}
    )
    with pytest.raises(DataError, match="attack harmful: 0 harmful pairs; dropped: 2 in_evaluation; expected at least"):
        run(loaded, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_that_the_template_refuses_fail_before_any_training(recipe, tmp_path, make_model_dir, derta):
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT_TEMPLATE
    model = make_model_dir(tokenizer={"chat_template": refusing})
    roles = zip(("system", "user", "assistant"), ("Be kind.", "Tell me.", "A story."), strict=True)
    row = {"messages": [{"role": role, "content": text} for role, text in roles]}
    (tmp_path / "system.jsonl").write_text(json.dumps(row) + "\n")
    attack = {"name": "x", "helpful": [{"path": str(tmp_path / "system.jsonl")}]}
    words = ("run", recipe, "--set", f"model.path={model}", "--set", f"fine_tuning_attacks=[{json.dumps(attack)}]")
    for end in (("--out", tmp_path / "run"), ("--dry-run",)):
        called = derta(*words, *end)
        assert called.code == 2
        assert "refused a conversation of ['system', 'user']" in called.err.splitlines()[-1]
        assert not (tmp_path / "run").exists()


def test_a_dry_run_counts_the_attacks_and_reads_their_data(recipe_attacked, caplog):
    caplog.set_level("INFO", "derta")
    estimate(recipe_attacked.model_copy(update={"methods": ("derta",), "seeds": (0, 1)}))
    log = caplog.text
    assert "fine-tuning attack harmful: 6 harmful pairs" in log
    assert "Attacks by fine-tuning are 4 further trainings, which are not estimated." in log


def section_of(recipe, kind, **settings):
    values = {"name": "x", kind: [{"path": "rows.jsonl"}], **settings}
    return load_recipe(recipe, overrides={"fine_tuning_attacks": [values]}).fine_tuning_attacks[0]


@pytest.mark.parametrize(
    ("kind", "pace"),
    # Qi et al.'s notebooks: 2 processes of 64 rows and 2e-5, one epoch; 2 of 5 rows and 5e-5, five epochs
    [("helpful", (128, 2e-5, 1.0)), ("harmful", (10, 5e-5, 5.0))],
)
def test_the_defaults_are_the_papers(recipe, kind, pace):
    train = attack_train(TrainSection(), section_of(recipe, kind), steps=None).settings
    assert (train["global_batch_size"], train["learning_rate"], train["num_train_epochs"]) == pace
    assert (train["lr_scheduler_type"], train["warmup_steps"], train["weight_decay"]) == ("constant", 0.0, 0.0)
    assert train["max_steps"] == -1
    assert train["global_batch_size"] % train["per_device_train_batch_size"] == 0
    assert train["per_device_train_batch_size"] <= 8


def test_the_recipes_machine_settings_are_inherited_and_the_methods_are_not():
    given = TrainSection.model_validate(
        {"bf16": True, "max_length": 64, "pack_tokens": 0, "train_sampling_strategy": "group_by_length",
         "save_steps": 5, "num_threads": 1, "tree_rows": True, "branches_per_triple": 3, "step_tokens": 99,
         "normalization": "row", "optim": "sgd"}
    )  # fmt: skip
    section = fine_tuning.FineTuningSection.model_validate({"name": "x", "helpful": [{"path": "rows.jsonl"}]})
    train = attack_train(given, section, steps=7).settings
    kept = ("bf16", "max_length", "pack_tokens", "train_sampling_strategy", "save_steps", "num_threads")
    assert all(train[name] == given.settings[name] for name in kept)
    assert (train["max_steps"], train["tree_rows"], train["branches_per_triple"]) == (7, False, 1)
    assert (train["step_tokens"], train["normalization"]) == (None, "token")
    assert "optim" not in train


def test_each_number_of_steps_is_an_attack_with_its_own_name_and_folder(recipe):
    attack = {"name": "x", "steps": [10, 100], "helpful": [{"path": "rows.jsonl"}]}
    first, second = fine_tuning_attacks(load_recipe(recipe, overrides={"fine_tuning_attacks": [attack]}))
    assert (first.label("derta"), second.label("derta")) == ("derta + x 10", "derta + x 100")
    assert (first.folder_prefix("derta"), second.folder_prefix("derta")) == ("derta+x+10", "derta+x+100")


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ({"helpful": [{"path": "a"}], "steps": 0}, ["`fine_tuning_attacks.0.steps.0`", "greater than or equal to 1"]),
        ({"helpful": [{"path": "a"}], "steps": []}, ["`fine_tuning_attacks.0.steps`", "at least 1 item"]),
        ({"helpful": [{"path": "a"}], "steps": [5, 5]}, ["each number of steps once"]),
        ({}, ["`helpful` data or of `harmful` data"]),
        ({"helpful": [{"path": "a"}], "harmful": [{"path": "a"}]}, ["and not both"]),
        ({"helpful": [{"path": "a"}], "step": 3}, ["unknown key `fine_tuning_attacks.0.step`", "'steps'?"]),
        ({"helpful": [{"path": "a"}], "pace": {"lr": 1}}, ["unknown key `fine_tuning_attacks.0.pace.lr`"]),
        ({"helpful": [{"path": "a"}], "name": "a b"}, ["`fine_tuning_attacks.0.name`", "'a b'"]),
        ({"helpful": [{"path": "gone.jsonl"}]}, ["gone.jsonl"]),
    ],
)
def test_a_wrong_section_is_one_line(attack, expected, recipe, tmp_path, derta):
    words = ("--set", f"fine_tuning_attacks=[{json.dumps({'name': 'x', **attack})}]")
    called = derta("run", recipe, "--out", tmp_path / "run", *words)
    assert called.code == 2
    assert all(part in called.err.splitlines()[-1] for part in expected), called.err
    assert not (tmp_path / "run").exists()


def test_two_attacks_of_one_name_are_refused(recipe, tmp_path, derta):
    attack = '{"name": "x", "helpful": [{"path": "a"}]}'
    called = derta("run", recipe, "--out", tmp_path / "run", "--set", f"fine_tuning_attacks=[{attack}, {attack}]")
    assert called.code == 2
    assert "expected a different name for each, got x, x" in called.err
