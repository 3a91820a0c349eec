"""Results of another model, judge or prompt are never taken for today's (cases 02, 30, 33)."""

import json
import shutil

import pytest
from openai_server import serving

from derta.files import read_records, write_records
from derta.records import Reply, Verdict
from small_run import write_jsonl


@pytest.fixture
def prompts(tmp_path, derta):
    requests = tmp_path / "requests.jsonl"
    requests.write_text("".join(json.dumps({"question": f"How do I bake bread {i}?"}) + "\n" for i in range(4)))
    assert derta("attack", "direct", "--requests", requests, "--out", tmp_path / "prompts.jsonl").code == 0
    return tmp_path / "prompts.jsonl"


@pytest.fixture
def stopped(prompts, derta, tiny_model_dir, tmp_path):
    """Write the replies of a generation that was stopped after two prompts."""
    some = tmp_path / "some.jsonl"
    some.write_text("".join(prompts.read_text().splitlines(keepends=True)[:2]))
    out = tmp_path / "replies.jsonl"
    words = ("generate", some, "--model", tiny_model_dir, "--max-new-tokens", 3, "--out", out)
    assert derta(*words).code == 0
    return out


def test_replies_of_another_model_or_limit_are_not_mixed(prompts, stopped, derta, make_model_dir, tiny_model_dir):
    before = stopped.read_bytes()
    other = make_model_dir(seed=1)
    for model, limit, named in ((other, 3, "model ("), (tiny_model_dir, 5, "max_new_tokens (3 before, 5 now)")):
        called = derta("generate", prompts, "--model", model, "--max-new-tokens", limit, "--out", stopped)
        assert (called.code, named in called.err) == (2, True), called.err
        assert stopped.read_bytes() == before
    called = derta("generate", prompts, "--model", tiny_model_dir, "--max-new-tokens", 3, "--out", stopped)
    assert called.code == 0, called.err
    assert [one.prompt_id for one in read_records(stopped, Reply)][:2] == [
        json.loads(line)["prompt_id"] for line in before.decode().splitlines()
    ]


def test_a_prompt_whose_text_changed_is_not_answered_by_its_old_reply(prompts, stopped, derta, tiny_model_dir):
    prompts.write_text(prompts.read_text().replace("bake bread 0", "paint fence 0"))
    ids = [json.loads(line)["id"] for line in prompts.read_text().splitlines()]
    rows = [one.model_copy(update={"prompt_id": ids[i]}) for i, one in enumerate(read_records(stopped, Reply))]
    write_records(stopped, rows)
    called = derta("generate", prompts, "--model", tiny_model_dir, "--max-new-tokens", 3, "--out", stopped)
    assert (called.code, "its input has changed since" in called.err) == (2, True), called.err


def answer(_, body):
    """Answer as a judge that calls kneading unsafe, or everything if it is strict."""
    harmful = body["model"] == "strict" or "knead" in json.dumps(body["messages"])
    message = {"role": "assistant", "content": f"VERDICT: {'UNSAFE' if harmful else 'SAFE'}"}
    return {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def test_verdicts_of_another_models_replies_or_of_another_judge_are_not_taken_over(prompts, tmp_path, derta):
    ids = [json.loads(line)["id"] for line in prompts.read_text().splitlines()]
    for name, text in (("a", "Mix and knead the dough."), ("b", "Sorry, no.")):
        (tmp_path / name).mkdir()
        write_records(tmp_path / name / "replies.jsonl", [Reply(prompt_id=one, text=text) for one in ids])

    with serving(answer) as server:

        def judge(name, model, out):
            words = ("judge", tmp_path / name / "replies.jsonl", "--judge", "guideline", "--judge-model", model)
            option = f"endpoints={server.url}"
            return derta(*words, "--engine", "api", "--engine-option", option, "--out", tmp_path / out)

        assert judge("a", "mild", "v.jsonl").code == 0
        held = (tmp_path / "v.jsonl").read_bytes()
        called = judge("a", "strict", "v.jsonl")
        assert (called.code, "model (mild before, strict now)" in called.err) == (2, True), called.err
        assert (tmp_path / "v.jsonl").read_bytes() == held
        called = judge("b", "mild", "v.jsonl")
        assert called.code == 0, called.err
        assert "4 verdicts on other replies are superseded" in called.err
    assert {one.harmful for one in read_records(tmp_path / "v.jsonl", Verdict)} == {False}
    assert (tmp_path / "v.superseded.jsonl").read_bytes() == held


def test_verdicts_on_replies_that_changed_are_not_exported(finished, tmp_path, derta):
    home = shutil.copytree(finished.folder, tmp_path / "run") / "derta-seed0"
    replies = [one.model_copy(update={"text": "Sorry, no."}) for one in read_records(home / "replies.jsonl", Reply)]
    write_records(home / "replies.jsonl", replies)
    called = derta("export", home / "replies.jsonl", "--format", "inspect", "--out", tmp_path / "log.json")
    assert (called.code, "is on another reply; judge the file again" in called.err) == (2, True), called.err
    assert not (tmp_path / "log.json").exists()


def test_verdicts_of_another_judge_or_file_are_kept_beside_the_new_ones(tmp_path, derta):
    """A judge without a model costs nothing: it writes its verdicts, and loses no others."""
    first = write_jsonl(tmp_path / "first.jsonl", [{"question": "Bread?", "response": "Sorry, I cannot help."}])
    more = [{"question": "Tea?", "response": "Boil water."}, {"question": "Rye?", "response": "Mix flour."}]
    second = write_jsonl(tmp_path / "second.jsonl", more)
    out = tmp_path / "v.jsonl"
    assert derta("judge", second, "--judge", "refusal", "--out", out).code == 0
    held = out.read_bytes()
    called = derta("judge", first, "--judge", "refusal", "--out", out)
    assert (called.code, "held 2 other verdicts, which are in v.superseded.jsonl now" in called.err) == (0, True)
    assert [one.refused for one in read_records(out, Verdict)] == [True]
    assert (tmp_path / "v.superseded.jsonl").read_bytes() == held
    assert derta("judge", first, "--judge", "harm", "--out", out).code == 0
    assert [one.judge for one in read_records(out, Verdict)] == ["harm"]
    assert len(list(read_records(tmp_path / "v.superseded.jsonl", Verdict))) == 3
