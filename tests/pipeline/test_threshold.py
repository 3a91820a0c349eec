import json

import pytest

from derta.config import load_recipe
from derta.engines import load_engine
from derta.errors import DataError, RecipeError
from derta.files import read_records
from derta.pipeline.run import run
from derta.pipeline.threshold import calibrate_threshold, harmful_requests
from derta.provenance import model_hash
from derta.records import Reply
from derta.thresholds import read_threshold
from small_run import write_jsonl

THINGS = ("bread", "tea", "a kite", "a fence", "a boat")
BENIGN = [{"prompt": f"Tell me about {thing}.", "completion": f"Here is a story about {thing}."} for thing in THINGS]
TRIPLES = [
    {"query": f"How do I paint {one}?", "safe": "Sorry, no.", "harmful": f"Sure: paint {one}."} for one in THINGS
]
REQUESTS = [{"id": row["query"], "text": row["query"], "harmful": row["harmful"]} for row in TRIPLES]


@pytest.fixture
def benign(tmp_path):
    return write_jsonl(tmp_path / "benign.jsonl", BENIGN)


def test_the_command_writes_a_file_that_generate_takes(tiny_model_dir, tmp_path, benign, derta, finished):
    harmful, out = write_jsonl(tmp_path / "harmful.jsonl", TRIPLES), tmp_path / "threshold.json"
    words = ["threshold", tiny_model_dir, "--benign", benign, "--harmful", harmful, "--false-alarm", 0.2, "--out", out]
    words += ["--engine-option", "dtype=float32", "--engine-option", "device=cpu"]
    called = derta(*words)
    assert called.code == 0, called.err
    threshold = read_threshold(out)
    assert (threshold.replies, threshold.alarms <= 1, threshold.per) == (5, True, "reply")
    assert f"threshold {threshold.threshold:g}: {threshold.alarms} of 5 benign replies reach it" in called.out
    assert "first token" in called.out
    printed = json.loads(derta(*words, "--json").out)
    assert printed["openai_logit_bias"] == {str(token): threshold.logit_bias for token in threshold.token_ids}
    assert [row["depth"] for row in printed["depths"]][:2] == ["first token", "after 1 to 5 tokens"]

    replies = tmp_path / "replies.jsonl"
    words = ["generate", finished.folder / "prompts.jsonl", "--model", tiny_model_dir, "--out", replies]
    words += ["--max-new-tokens", 3, "--dtype", "float32"]
    assert derta(*words, "--refusal-threshold", out).code == 0
    [producer] = {json.dumps(reply.producer) for reply in read_records(replies, Reply)}
    assert json.loads(producer).keys() >= {"refusal_threshold", "model"}
    assert derta(*words, "--refusal-threshold", 0.001).code == 2  # other replies are not overwritten
    called = derta(*words[:3], finished.folder / "derta-seed0/model", *words[4:], "--refusal-threshold", out)
    assert called.code == 2
    called = derta("generate", finished.folder / "prompts.jsonl", "--model", finished.folder / "derta-seed0/model",
                   "--out", tmp_path / "other.jsonl", "--refusal-threshold", out)  # fmt: skip
    assert called.code == 2
    assert "got that of another model" in called.err


def test_a_threshold_by_depth_is_a_file_like_any_other(tiny_model_dir, tmp_path, benign, derta):
    out = tmp_path / "threshold.json"
    words = [
        "threshold",
        tiny_model_dir,
        "--benign",
        benign,
        "--by-depth",
        "--out",
        out,
        "--engine-option",
        "device=cpu",
    ]
    called = derta(*words, "--false-alarm", 0.5)
    assert called.code == 0, called.err
    threshold = read_threshold(out)
    assert [first for first, _ in threshold.later] == [1, 6]
    assert (threshold.cases, threshold.replies) == (2, 5)
    assert f", {threshold.later[0][1]:g} after 1, " in called.out
    assert load_engine(tiny_model_dir, device="cpu", refusal_threshold=out).forcing.later == threshold.later
    called = derta(*words, "--per", "position")
    assert called.code == 2
    assert "expected a rate per reply, got one per position" in called.err


def test_requests_and_triples_have_harmful_answers(tmp_path):
    triples = harmful_requests(write_jsonl(tmp_path / "triples.jsonl", TRIPLES))
    requests = harmful_requests(write_jsonl(tmp_path / "requests.jsonl", REQUESTS), limit=3)
    assert [(one.text, one.harmful) for one in requests] == [(one.text, one.harmful) for one in triples][:3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"false_alarm": 0.01}, "expected at least 99 benign replies for a false-alarm rate of 0.01, got 5"),
        ({"per": "token"}, "per: expected reply or position, got 'token'"),
    ],
)
def test_a_calibration_that_cannot_be_is_an_error(tiny_model_dir, benign, changes, message):
    with pytest.raises(DataError, match=message):
        calibrate_threshold(tiny_model_dir, benign, device="cpu", **{"false_alarm": 0.2, **changes})


def test_texts_without_a_request_are_no_benign_replies(tiny_model_dir, tmp_path):
    path = write_jsonl(tmp_path / "texts.jsonl", [{"text": "The cat sleeps."}])
    with pytest.raises(DataError, match="expected benign conversations with an answer, got none"):
        calibrate_threshold(tiny_model_dir, path, false_alarm=0.2, device="cpu")


def test_a_run_forces_refusals_and_shows_benign_profiles(recipe, tmp_path):
    changes = {"methods": ["base"], "profile_benign": 2, "generate.refusal_threshold": 1e-9}
    summary = run(load_recipe(recipe, overrides=changes), out=tmp_path / "run")
    replies = list(read_records(tmp_path / "run/base-seed0/replies.jsonl", Reply))
    assert all("Sorry" in reply.text for reply in replies)
    assert {reply.producer["refusal_threshold"] for reply in replies} == {"1e-09"}
    assert {curve.kind for curve in summary.curves} >= {"refusal_probability", "benign_probability", "roc"}
    assert {cell.measure for cell in summary.cells} >= {"auc"}
    assert "Detections against false alarms" in (tmp_path / "run/report.html").read_text()


def test_a_file_is_for_a_recipe_with_one_model(recipe, tiny_model_dir, tmp_path, benign):
    result = calibrate_threshold(tiny_model_dir, benign, false_alarm=0.2, device="cpu", dtype="float32")
    assert result.threshold.model == {"model": model_hash(tiny_model_dir)}
    result.threshold.write(tmp_path / "threshold.json")
    changes = {"generate.refusal_threshold": str(tmp_path / "threshold.json")}
    with pytest.raises(RecipeError, match="expected a number for a recipe with several models, got a file"):
        run(load_recipe(recipe, overrides=changes), out=tmp_path / "several")
    run(load_recipe(recipe, overrides=changes | {"methods": ["base"]}), out=tmp_path / "one")
    manifest = json.loads((tmp_path / "one/manifest.json").read_text())
    assert str(tmp_path / "threshold.json") in manifest["inputs"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generate.refusal_threshold": 2}, "refusal_threshold"),
        ({"generate.refusal_threshold": 0.5, "generate.engine": "vllm"}, "expected the engine hf"),
    ],
)
def test_a_recipe_with_an_invalid_threshold_is_refused(recipe, changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, overrides=changes)
