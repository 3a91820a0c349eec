"""An output is written by one process, holds each result once, and is no input (cases 03, 08)."""

import json

import pytest

from derta.files import read_records
from derta.records import Reply
from forks import run_forks


@pytest.fixture
def replies(tmp_path):
    path = tmp_path / "replies.jsonl"
    rows = [{"question": f"How do I bake bread {i}?", "response": "Mix the flour."} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_no_command_writes_over_its_input(replies, tmp_path, derta):
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"question": "How do I bake bread?"}\n')
    labels = tmp_path / "labels.jsonl"
    labels.write_text(json.dumps({"prompt": "Bread?", "response": "Mix.", "label": 0}) + "\n")
    (tmp_path / "link.jsonl").symlink_to(replies)
    for words, held in (
        (("judge", replies, "--judge", "refusal", "--out", replies), replies),
        (("judge", replies, "--judge", "refusal", "--out", tmp_path / "link.jsonl"), replies),
        (("attack", "direct", "--requests", requests, "--out", requests), requests),
        (("export", replies, "--format", "harmbench", "--out", replies), replies),
        (("calibrate", "--judge", "refusal", "--labels", labels, "--out", labels), labels),
    ):
        before = held.read_bytes()
        called = derta(*words)
        assert (called.code, "is an input too, and would be overwritten" in called.err) == (2, True), called.err
        assert held.read_bytes() == before


def test_verdicts_are_not_written_over_a_file_of_something_else(replies, tmp_path, derta):
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt_id": "1", "text": "A reply."}\n')
    before = other.read_bytes()
    called = derta("judge", replies, "--judge", "refusal", "--out", other)
    assert called.code == 2
    assert other.read_bytes() == before
    out = tmp_path / "verdicts.jsonl"
    assert derta("judge", replies, "--judge", "refusal", "--out", out).code == 0
    held = out.read_bytes()
    assert derta("judge", replies, "--judge", "harm", "--out", out).code == 0
    assert (tmp_path / "verdicts.superseded.jsonl").read_bytes() == held  # they are not mixed, and not lost
    assert b'"judge":"refusal"' not in out.read_bytes()


JUDGE, EXPORT = ("judge", "--judge", "refusal"), ("export", "--format", "harmbench", "--out", "x.json")


@pytest.mark.parametrize("verb", [JUDGE, EXPORT])
def test_a_reply_that_is_there_twice_is_counted_by_no_command(finished, tmp_path, derta, verb, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = (finished.folder / "derta-seed0/replies.jsonl").read_text()
    (tmp_path / "twice.jsonl").write_text(lines + lines)
    called = derta(verb[0], "twice.jsonl", *verb[1:], "--prompts", finished.folder / "prompts.jsonl")
    assert (called.code, "expected one reply to each prompt and sample" in called.err) == (2, True), called.err


@pytest.mark.extra
def test_two_processes_that_generate_into_one_file_leave_each_reply_once(tmp_path, tiny_model_dir, derta):
    requests = tmp_path / "requests.jsonl"
    requests.write_text("".join(json.dumps({"question": f"How do I bake bread {i}?"}) + "\n" for i in range(30)))
    program = """
from derta.cli.main import main
main()
"""
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "replies.jsonl"
    assert derta("attack", "direct", "--requests", requests, "--out", prompts).code == 0
    words = (
        "generate",
        prompts,
        "--model",
        tiny_model_dir,
        "--max-new-tokens",
        24,
        "--batch-tokens",
        400,
        "--out",
        out,
    )
    ended = run_forks(program, *words, folder=tmp_path, environments=({}, {}))
    ids = [one.prompt_id for one in read_records(tmp_path / "replies.jsonl", Reply)]
    assert len(ids) == len(set(ids)) == 30
    assert 0 in {one.returncode for one in ended}
    refused = [one for one in ended if one.returncode]
    assert all("another process writes this file" in one.stderr for one in refused)
