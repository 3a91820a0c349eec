import json

import pytest

from derta.files import read_records, write_records
from derta.records import Prompt, Reply

FINISHED_REPLIES = "derta-seed0/replies.jsonl"


def test_attack_writes_prompts_from_rows_of_other_projects(tmp_path, derta):
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"question": "How do I bake bread?"}\n{"question": "Where is the cat?"}\n')
    out = tmp_path / "prompts.jsonl"
    words = ["attack", "code_attack", "--requests", requests, "--out", out]
    called = derta(*words, "--option", "structures=[stack, list]")
    assert called.code == 0, called.err
    prompts = list(read_records(out, Prompt))
    assert [prompt.variant for prompt in prompts] == ["stack", "list"] * 2
    assert "4 prompts" in called.err
    called = derta(*words, "--option", "structures=[heap]")
    assert called.code == 2
    assert "heap" in called.err


def test_generate_gives_the_replies_of_the_run_and_only_missing_ones(finished, tmp_path, derta):
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


def test_generate_draws_samples_keeps_them_when_there_are_more_and_judge_counts_any_of_them(
    finished, tmp_path, tiny_model_dir, derta
):
    out, prompts = tmp_path / "replies.jsonl", tmp_path / "prompts.jsonl"
    direct = [one for one in read_records(finished.folder / "prompts.jsonl", Prompt) if one.attack == "direct"]
    write_records(prompts, [one for one in direct if one.suite == "attack"])
    words = ["generate", prompts, "--model", tiny_model_dir, "--out", out, "--max-new-tokens", 4, "--dtype", "float32"]
    sampled = [*words, "--temperature", 1.5, "--top-p", 0.9]
    assert derta(*sampled, "--num-samples", 2).code == 0
    few = list(read_records(out, Reply))
    assert derta(*sampled, "--num-samples", 5).code == 0
    many = list(read_records(out, Reply))
    assert many[: len(few)] == few
    assert {reply.key for reply in many} == {(f"direct:q{i}", number) for i in range(3) for number in range(5)}
    called = derta(*sampled, "--num-samples", 3)
    assert called.code == 2
    assert "is not expected" in called.err
    assert "temperature (1.5 before, 1.0 now)" in derta(*words, "--temperature", 1, "--num-samples", 5).err
    called = derta("judge", out, "--prompts", prompts, "--judge", "harm", "--json")
    cell = json.loads(called.out)
    assert (cell["scored"], cell["harmful_any"]["scored"]) == (15, 3)
    assert cell["harmful_any"]["value"] >= cell["value"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-samples", 3], "expected a temperature above 0 for 3 samples"),
        (["--top-p", 0.5], "expected a temperature above 0 with top_p 0.5"),
        (["--temperature", 1, "--top-p", 0], "top_p"),
        (["--temperature", "nan"], "temperature"),
    ],
)
def test_settings_of_sampling_that_do_not_fit_are_one_line(options, message, tmp_path, derta):
    write_records(tmp_path / "prompts.jsonl", [])
    called = derta("generate", tmp_path / "prompts.jsonl", "--model", "m", "--out", tmp_path / "out", *options)
    assert (called.code, message in called.err) == (2, True), called.err
    assert len(called.err.strip().splitlines()) == 1
