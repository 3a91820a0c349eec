from derta.files import read_records
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
