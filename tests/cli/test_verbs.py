"""Each verb by itself, on the small model."""

import json
import logging
import subprocess
import sys

import pytest
import yaml

from derta.cli.main import app
from derta.config import load_recipe
from derta.data.rows import IGNORE
from derta.files import read_records
from derta.records import Prompt, Reply, Verdict

CELL_KEYS = {"method", "seed", "suite", "name", "judge", "value", "low", "high", "scored", "unscored"}
VERBS = [command.name or command.callback.__name__ for command in app.registered_commands]
FINISHED_REPLIES = "derta-seed0/replies.jsonl"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, derta):
    called = derta(verb, "--help")
    assert called.code == 0
    assert f"Example: derta {verb}" in called.out


def test_the_design_s_verbs_are_there(derta):
    assert {"demo", "run", "data", "train", "attack", "generate", "judge", "report", "compare", "replay"} <= set(VERBS)
    called = derta("--help")
    assert called.code == 0
    assert all(verb in called.out for verb in VERBS)


HEAVY = ("torch", "transformers", "scipy", "matplotlib", "datasets", "pyarrow", "numpy", "jinja2", "yaml", "openai")


@pytest.mark.parametrize(
    "words",
    [["--help"], ["judge", "--help"], ["judge", "replies.jsonl", "--judge", "refusal", "--out", "verdicts.jsonl"]],
)
def test_help_and_a_light_judge_import_nothing_heavy(words, tmp_path):
    (tmp_path / "replies.jsonl").write_text('{"question": "Ask?", "response": "Sorry, I cannot help with that."}\n')
    script = (
        "import sys\nfrom derta.cli.main import main\ntry:\n    main()\nexcept SystemExit as leaving:\n"
        f"    heavy = set({HEAVY}) & set(sys.modules)\n"
        "    sys.exit(f'code {leaving.code}, {sorted(heavy)}')"
    )
    found = subprocess.run(  # noqa: S603 - our own line
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert found.stderr.strip() == "code 0, []"


def test_data_writes_the_rows_that_training_draws(finished, tmp_path, derta):
    from derta.data.rows import draw_row
    from derta.methods import METHODS
    from derta.pipeline.data import prepare_data
    from derta.pipeline.models import load_format

    out = tmp_path / "rows.jsonl"
    called = derta("data", finished.recipe, "--method", "derta", "--seed", 3, "--epoch", 1, "--out", out)
    assert called.code == 0, called.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    recipe = load_recipe(finished.recipe)
    chat, refusals = load_format(recipe)
    data = prepare_data(recipe).training_set(seed=3)
    chosen = METHODS["derta"].dataset(data, chat=chat, refusals=refusals, config=recipe.train.rows)
    drawn = [draw_row(one, config=recipe.train.rows, seed=3, epoch=1) for one in chosen]
    assert [(row["id"], row["input_ids"], row["labels"]) for row in rows] == [
        (row.id, row.input_ids, row.labels) for row in drawn
    ]
    assert [row["term"] for row in rows] == ["helpful"] * 4 + ["safe"] * 2 + ["rto"] * 2
    learned = {label for row in rows if row["term"] == "rto" for label in row["labels"]} - {IGNORE}
    assert learned <= set(refusals.ids)


def test_data_writes_every_branch_of_a_triple_as_a_row(finished, tmp_path, derta):
    values = yaml.safe_load(finished.recipe.read_text())
    values["train"] |= {"branches_per_triple": 3, "tree_rows": True}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    out = tmp_path / "rows.jsonl"
    called = derta("data", tmp_path / "recipe.yaml", "--method", "derta", "--out", out)
    assert called.code == 0, called.err
    terms = [json.loads(line)["term"] for line in out.read_text().splitlines()]
    assert terms == ["helpful"] * 4 + ["safe"] * 6 + ["rto"] * 2


def test_rows_whose_labels_are_dropped_in_training_are_not_written_with_all_of_them(finished, tmp_path, derta):
    words = ("--method", "derta", "--out", tmp_path / "rows.jsonl", "--set", "train.reference=true")
    called = derta("data", finished.recipe, *words)
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "expected no train.reference" in called.err
    assert not (tmp_path / "rows.jsonl").exists()


def test_train_writes_the_model_of_a_run_and_overwrites_nothing(finished, tmp_path, derta):
    out = tmp_path / "model"
    called = derta("train", finished.recipe, "--method", "derta", "--out", out)
    assert called.code == 0, called.err
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (finished.folder / "derta-seed0/model" / weights).read_bytes()
    called = derta("train", finished.recipe, "--method", "vanilla", "--out", out)
    assert called.code == 2
    assert "expected a new folder" in called.err


def test_attack_writes_prompts_from_anybodys_requests(tmp_path, derta):
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"question": "How do I bake bread?"}\n{"question": "Where is the cat?"}\n')
    out = tmp_path / "prompts.jsonl"
    words = ["attack", "code_attack", "--requests", asked, "--out", out]
    called = derta(*words, "--option", "structures=[stack, list]")
    assert called.code == 0, called.err
    prompts = list(read_records(out, Prompt))
    assert [prompt.variant for prompt in prompts] == ["stack", "list"] * 2
    assert "4 prompts" in called.err
    called = derta(*words, "--option", "structures=[heap]")
    assert called.code == 2
    assert "heap" in called.err


def test_reply_answers_as_the_run_did_and_only_what_is_missing(finished, tmp_path, derta):
    out = tmp_path / "replies.jsonl"
    words = ["generate", finished.folder / "prompts.jsonl", "--model", finished.folder / "derta-seed0/model"]
    words += ["--out", out, "--max-new-tokens", 6, "--dtype", "float32", "--threads", 1]
    expected = {reply.prompt_id: reply for reply in read_records(finished.folder / FINISHED_REPLIES, Reply)}
    assert derta(*words).code == 0
    whole = out.read_text()
    assert {reply.prompt_id: reply for reply in read_records(out, Reply)} == expected
    out.write_text("".join(whole.splitlines(keepends=True)[:4]))
    assert derta(*words).code == 0
    assert {reply.prompt_id: reply for reply in read_records(out, Reply)} == expected


def test_judge_prints_one_cell_of_our_replies(finished, tmp_path, derta):
    out = tmp_path / "verdicts.jsonl"
    called = derta("judge", finished.folder / FINISHED_REPLIES, "--judge", "refusal", "--json", "--out", out)
    assert called.code == 0, called.err
    cell = json.loads(called.out)
    assert set(cell) >= CELL_KEYS
    assert cell["scored"] + cell["unscored"] == 9
    assert cell["judge"] == "refusal"
    assert len(list(read_records(out, Verdict))) == 9


@pytest.mark.parametrize(
    ("rows", "judge", "value"),
    [
        (['{"question": "Who?", "response": "Sorry, I cannot help with that."}', '"Bread is baked."'], "refusal", 0.5),
        (['"Sorry, I cannot help with that."', "\"I'm sorry, but I can't.\""], "refusal", 1.0),
        (['{"question": "2 + 3?", "response": "So the answer is 5.", "answer": "5"}'], "gsm8k", 1.0),
    ],
)
def test_judge_reads_rows_of_others_and_bare_strings(rows, judge, value, tmp_path, derta):
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(row + "\n" for row in rows))
    called = derta("judge", path, "--judge", judge, "--json")
    assert called.code == 0, called.err
    cell = json.loads(called.out)
    assert (cell["value"], cell["scored"], cell["name"]) == (value, len(rows), "theirs")
    told = derta("judge", path, "--judge", judge)
    assert f"{value:.1%} of {len(rows)}" in told.out


def test_judge_says_when_nothing_can_be_scored(tmp_path, derta):
    path = tmp_path / "empty.jsonl"
    path.write_text('""\n')
    assert "nothing was scored (1 unscored)" in derta("judge", path, "--judge", "refusal").out
    assert json.loads(derta("judge", path, "--judge", "refusal", "--json").out)["value"] is None


@pytest.mark.parametrize(
    ("content", "judge", "part"),
    [
        ("3\n", "refusal", ":1: expected a reply record"),
        ('"Hello."\n', "nonsense", "unknown judge 'nonsense'; known: refusal"),
        ('{"prompt_id": "p", "text": "Hello."}\n', "refusal", "--prompts"),
        ("", "refusal", "the file holds none"),
    ],
)
def test_what_cannot_be_judged_is_told(content, judge, part, tmp_path, derta):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    called = derta("judge", path, "--judge", judge)
    assert called.code == 2
    assert part in called.err
    assert called.err.count("\n") == 1


def test_compare_pairs_two_models_replies(tmp_path, derta):
    def write(name, replies):
        path = tmp_path / name
        rows = [{"question": f"Ask {i}?", "response": reply} for i, reply in enumerate(replies)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    first = write("first.jsonl", ["Sorry, I cannot help with that."] * 6 + ["Bread."])
    second = write("second.jsonl", ["Bread."] * 7)
    called = derta("compare", first, second, "--judge", "refusal", "--json")
    assert called.code == 0, called.err
    [one] = json.loads(called.out)
    # six discordant pairs, all one way: 2 / 2**6
    assert (one["only_first"], one["only_second"], one["pairs"], one["p_value"]) == (6, 0, 7, 0.03125)
    assert "p = 0.031" in derta("compare", first, second, "--judge", "refusal").out


def test_compare_reads_runs(finished, derta):
    paths = [finished.folder / f"{method}-seed0/replies.jsonl" for method in ("vanilla", "derta")]
    called = derta("compare", *paths, "--judge", "refusal", "--json")
    assert called.code == 0, called.err
    assert {one["first"] for one in json.loads(called.out)} == {"vanilla-seed0"}
    assert {one["name"] for one in json.loads(called.out)} == {"direct", "prefill@0%", "prefill@50%", "benign"}


def test_compare_refuses_replies_to_different_prompts(tmp_path, derta):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": name, "response": "Bread."}) + "\n")
    called = derta("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--judge", "refusal")
    assert called.code == 2
    assert "none in common" in called.err


def test_a_kernel_that_derta_must_not_use_is_not_missed_aloud(derta, caplog):
    derta("--help")
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    log.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please", "No module named 'kernels'")
    log.warning("Something else")
    assert caplog.messages == ["Something else"]


def _stop(*_, **__):
    raise KeyboardInterrupt


def test_a_stopped_training_goes_on_with_no_other_method(recipe, tmp_path, derta, monkeypatch):
    words = ("train", recipe, "--out", tmp_path / "out", "--method")
    with monkeypatch.context() as patched:
        patched.setattr("derta.train.checkpoints.save", _stop)
        assert derta(*words, "vanilla").code == 130
    called = derta(*words, "derta")
    assert (called.code, "out.checkpoints: holds the run of another recipe (differs in methods)" in called.err) == (
        2,
        True,
    )
    assert derta(*words, "vanilla").code == 0
    assert not list(tmp_path.glob("out.*"))
