"""Faults of prompts, templates and served judges are found before the training that they would waste."""

import json
import time
from pathlib import Path

import pytest
import yaml
from openai_server import Fault, choice, serving

from conftest import CHAT_TEMPLATE
from small_run import small_recipe, write_jsonl

STRICT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="session")
def strict_model_dir(make_model_dir):
    return make_model_dir(tokenizer={"chat_template": STRICT})


def trained(folder: Path) -> list[Path]:
    return list(folder.glob("*/model*"))


def small(folder, model, **changes):
    changes.setdefault("methods", ["vanilla"])
    return small_recipe(folder, model, **changes)


def section(folder, **changes):
    return [{"attack": "direct", "requests": {"path": str(folder / "asked.jsonl")}, **changes}]


def test_prompts_without_room_for_new_tokens_stop_the_run_and_the_fixed_recipe_runs_in_the_same_folder(
    derta, tmp_path, tiny_model_dir
):
    recipe, out = small(tmp_path, tiny_model_dir), tmp_path / "run"
    called = derta("run", recipe, "--out", out, "--set", "generate.max_new_tokens=250")
    assert called.code == 2
    assert "are more than the model's 256 positions" in called.err
    assert trained(out) == []
    assert derta("run", recipe, "--out", out).code == 0


def test_one_evaluation_with_too_many_new_tokens_is_enough(derta, tmp_path, tiny_model_dir):
    recipe = small(tmp_path, tiny_model_dir, evaluate=section(tmp_path, max_new_tokens=255))
    called = derta("run", recipe, "--out", tmp_path / "run")
    assert (called.code, trained(tmp_path / "run")) == (2, [])
    assert "prompt 'direct:q0'" in called.err


def test_a_held_out_answer_that_is_too_long_to_score_is_found_before(derta, tmp_path, tiny_model_dir):
    long = write_jsonl(tmp_path / "long.jsonl", [{"id": "x", "text": "How?", "harmful": "step one, two, three " * 60}])
    recipe = small(tmp_path, tiny_model_dir, profile_requests={"path": str(long)})
    called = derta("run", recipe, "--out", tmp_path / "run")
    assert (called.code, trained(tmp_path / "run")) == (2, [])
    assert "prompt 'x'" in called.err


def test_a_role_that_the_template_refuses_is_found_before(derta, tmp_path, strict_model_dir):
    demos = write_jsonl(tmp_path / "demos.jsonl", [f"How do I paint fence {i}?" for i in range(5)])
    evaluate = section(tmp_path, attack="self_cipher", options={"demonstrations": str(demos)}, max_new_tokens=4)
    called = derta("run", small(tmp_path, strict_model_dir, evaluate=evaluate), "--out", tmp_path / "run")
    assert (called.code, trained(tmp_path / "run")) == (2, [])
    assert "prompt 'self_cipher:q0': the chat template refused a conversation" in called.err
    assert "System role not supported" in called.err


def test_a_local_attacker_without_a_system_role_is_found_before(derta, tmp_path, tiny_model_dir, strict_model_dir):
    search = {"attacker": {"model": str(strict_model_dir)}, "judge": "harm"}
    evaluate = section(tmp_path, attack="pair", search=search, max_new_tokens=4)
    called = derta("run", small(tmp_path, tiny_model_dir, evaluate=evaluate), "--out", tmp_path / "run")
    assert (called.code, trained(tmp_path / "run")) == (2, [])
    assert f"attacker {strict_model_dir}: the chat template refused a conversation" in called.err


@pytest.fixture(scope="session")
def deaf_model_dir(make_model_dir):
    """A model whose template writes no system prompt, without an error."""
    template = (
        "{{ bos_token }}{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    return make_model_dir(tokenizer={"chat_template": template})


def test_a_message_that_the_template_leaves_out_is_found_before(derta, tmp_path, deaf_model_dir):
    demos = write_jsonl(tmp_path / "demos.jsonl", [f"How do I paint fence {i}?" for i in range(5)])
    evaluate = section(tmp_path, attack="self_cipher", options={"demonstrations": str(demos)}, max_new_tokens=4)
    called = derta("run", small(tmp_path, deaf_model_dir, evaluate=evaluate), "--out", tmp_path / "run")
    assert (called.code, trained(tmp_path / "run")) == (2, [])
    assert "prompt 'self_cipher:q0': the chat template leaves out messages of role system" in called.err


def test_instructions_that_an_attackers_template_leaves_out_are_found_before(
    derta, tmp_path, tiny_model_dir, deaf_model_dir
):
    search = {"attacker": {"model": str(deaf_model_dir)}, "judge": "harm"}
    evaluate = section(tmp_path, attack="pair", search=search, max_new_tokens=4)
    called = derta("run", small(tmp_path, tiny_model_dir, evaluate=evaluate), "--out", tmp_path / "run")
    assert (called.code, trained(tmp_path / "run")) == (2, [])
    assert f"attacker {deaf_model_dir}: the chat template leaves out messages of role system" in called.err


@pytest.fixture
def short_probe(monkeypatch):
    """Limit the request that tests a server to one second."""
    monkeypatch.setattr("derta.engines.openai_probe.PROBE_SECONDS", 1.0)


def judged_by(server_url, folder, **settings):
    judge = {"name": "guideline", "model": "m", "engine": "api", "settings": {"endpoints": server_url, **settings}}
    return section(folder, judges=["refusal", judge])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("status", 401), "does not accept the key"),
        (Fault("status", 404, message="no such model"), "no such model"),
        (Fault("status", 500), "500"),
        pytest.param(Fault("hang"), "no answer within 1 s", marks=pytest.mark.extra),
    ],
    ids=lambda value: f"{value.kind} {value.status}" if isinstance(value, Fault) else "",
)
@pytest.mark.usefixtures("short_probe")
def test_a_served_judge_that_does_not_answer_stops_the_run_before_training(
    derta, tmp_path, tiny_model_dir, fault, reason
):
    start = time.monotonic()
    with serving(fault=lambda *_: fault) as server:
        recipe = small(tmp_path, tiny_model_dir, evaluate=judged_by(server.url, tmp_path))
        called = derta("run", recipe, "--out", tmp_path / "run")
    assert (called.code, trained(tmp_path / "run")) == (2, [])
    assert reason in called.err
    assert time.monotonic() - start < 20


def test_a_judge_without_a_server_stops_the_run_before_training(derta, tmp_path, tiny_model_dir):
    with serving() as server:
        url = server.url
    called = derta("run", small(tmp_path, tiny_model_dir, evaluate=judged_by(url, tmp_path)), "--out", tmp_path / "run")
    assert (called.code, trained(tmp_path / "run")) == (2, [])
    assert "cannot be reached" in called.err


def test_a_judge_folder_that_does_not_exist_stops_the_run_before_training(derta, tmp_path, tiny_model_dir):
    evaluate = section(tmp_path, judges=[{"name": "guideline", "model": str(tmp_path / "no")}])
    called = derta("run", small(tmp_path, tiny_model_dir, evaluate=evaluate), "--out", tmp_path / "run")
    assert (called.code, trained(tmp_path / "run")) == (2, [])
    assert "expected a model folder or a hub id" in called.err


def test_the_server_is_queried_once_before_and_never_when_nothing_is_left_to_judge(derta, tmp_path, tiny_model_dir):
    with serving(lambda path, _: choice(path, "VERDICT: SAFE")) as server:
        recipe = small(tmp_path, tiny_model_dir, evaluate=judged_by(server.url, tmp_path))
        assert derta("run", recipe, "--out", tmp_path / "run").code == 0
        bodies = [one.body for one in server.requests]
        assert [body["max_tokens"] for body in bodies].count(1) == 1
        assert bodies[0]["max_tokens"] == 1
    assert derta("run", recipe, "--out", tmp_path / "run").code == 0  # the server is gone


def test_a_judge_that_rejects_the_short_request_is_no_reason_to_stop(derta, tmp_path, tiny_model_dir):
    with serving(
        lambda path, _: choice(path, "VERDICT: SAFE"),
        fault=lambda _, body: Fault("status", 400, message="too few tokens") if body["max_tokens"] == 1 else None,
    ) as server:
        recipe = small(tmp_path, tiny_model_dir, evaluate=judged_by(server.url, tmp_path))
        assert derta("run", recipe, "--out", tmp_path / "run").code == 0


def sharegpt(folder, rows=12):
    turns = [[("human", f"Tell me story {i}."), ("gpt", f"A kite flew, {i} times.")] for i in range(rows)]
    turns[7].insert(0, ("gpt", "Welcome back."))
    values = [{"conversations": [{"from": role, "value": text} for role, text in one]} for one in turns]
    return write_jsonl(folder / "sharegpt.jsonl", values)


def strict_data(folder, model):
    path = small(folder, model)
    values = yaml.safe_load(path.read_text())
    values["data"]["helpful"] = [{"path": str(sharegpt(folder))}]
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_conversation_that_the_template_refuses_is_dropped_and_named(derta, tmp_path, strict_model_dir):
    recipe, out = strict_data(tmp_path, strict_model_dir), tmp_path / "rows.jsonl"
    called = derta("data", recipe, "--method", "derta", "--out", out)
    assert called.code == 0, called.err
    text = " ".join(called.err.split())
    assert "sharegpt.jsonl:8: the chat template refused a conversation" in text
    assert "Roles must alternate" in text
    assert "dropped: 1 refused_by_template" in text
    assert len(out.read_text().splitlines()) > 0


def test_a_mixture_that_lacks_the_dropped_row_names_it(derta, tmp_path, strict_model_dir):
    recipe = strict_data(tmp_path, strict_model_dir)
    counts = ("--set", "data.num_helpful=12", "--set", "data.held_out_helpful=0")
    called = derta("data", recipe, "--method", "derta", "--out", tmp_path / "rows.jsonl", *counts)
    assert called.code == 2
    last = called.err.splitlines()[-1]
    assert "only 11 are available" in last
    assert "1 rows were dropped:" in last
    assert "sharegpt.jsonl:8: the chat template refused a conversation" in last


def test_a_run_trains_without_it_and_the_report_counts_it(derta, tmp_path, strict_model_dir):
    called = derta("run", strict_data(tmp_path, strict_model_dir), "--out", tmp_path / "run")
    assert called.code == 0, called.err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert any("1 refused_by_template" in note for note in summary["notes"])


def test_a_template_that_takes_such_conversations_keeps_them(derta, tmp_path, tiny_model_dir):
    assert "raise_exception" not in CHAT_TEMPLATE
    recipe = strict_data(tmp_path, tiny_model_dir)
    called = derta("data", recipe, "--method", "derta", "--out", tmp_path / "rows.jsonl")
    assert called.code == 0, called.err
    assert "refused_by_template" not in called.err


def contexts(folder, model):
    """Change a small recipe's triples: one has a system prompt, one calls a tool, and one has an earlier turn."""
    path = small(folder, model)
    values = yaml.safe_load(path.read_text())
    source = Path(values["data"]["triples"][0]["path"])
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    turns = [{"role": "user", "content": "What is dough?"}, {"role": "assistant", "content": "Flour and water."}]
    rows[1]["system"] = "Be brief."
    rows[2]["messages"] = [turns[0], call, {"role": "tool", "content": "Flour."}, turns[1]]
    rows[3]["messages"] = turns
    values["data"]["triples"] = [{"path": str(write_jsonl(folder / "contexts.jsonl", rows))}]
    path.write_text(yaml.safe_dump(values))
    return path


def test_triples_whose_context_the_template_refuses_are_dropped_and_the_first_is_named(
    derta, tmp_path, strict_model_dir
):
    recipe, out = contexts(tmp_path, strict_model_dir), tmp_path / "rows.jsonl"
    called = derta("data", recipe, "--method", "vanilla", "--out", out)
    assert called.code == 0, called.err
    text = " ".join(called.err.split())
    assert "contexts.jsonl:2: the chat template refused a conversation" in text
    assert "System role not supported" in text
    assert "dropped: 2 refused_by_template" in text, "the earlier turn is accepted"
