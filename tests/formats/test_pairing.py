"""Pairs of two files' replies: never by their position in the file."""

import json
from typing import Any

from small_run import write_jsonl

NO, YES = "Sorry, I cannot help with that.", "Boil the water first."


def compare(derta, tmp_path, first: list[Any], second: list[Any]):
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", rows) for name, rows in (("a", first), ("b", second))]
    return derta("compare", *paths, "--judge", "refusal", "--json")


def test_bare_strings_are_refused(derta, tmp_path):
    called = compare(derta, tmp_path, [NO] * 9, [YES] * 9)
    assert called.code == 2
    assert "a.jsonl: expected rows with a request or an id" in called.err
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    called = derta("pairwise", *paths, "--judge-model", "m", "--engine", "scripted")
    assert (called.code, "expected rows with a request or an id" in called.err) == (2, True)


def test_the_order_of_the_rows_does_not_matter(derta, tmp_path):
    rows = [{"question": f"q{i}", "response": NO if i < 6 else YES} for i in range(8)]
    called = compare(derta, tmp_path, rows, [{"question": row["question"], "response": YES} for row in rows[::-1]])
    [row] = json.loads(called.out)
    assert (row["pairs"], row["only_first"], row["only_second"], row["p_value"]) == (8, 6, 0, 0.03125)  # 2 / 2**6


def test_the_same_request_in_two_prompts_is_two_pairs(derta, tmp_path):
    first = [{"goal": "Tea?", "prompt": f"{kind}. Tea?", "response": NO} for kind in ("Pretend", "Imagine")]
    second = [one | {"response": YES} for one in first[::-1]]
    [row] = json.loads(compare(derta, tmp_path, first, second).out)
    assert (row["pairs"], row["only_first"]) == (2, 2)
    called = compare(derta, tmp_path, first, [{"goal": "Tea?", "prompt": "Sing. Tea?", "response": YES}])
    assert (called.code, "got none in common" in called.err) == (2, True)


def test_rows_with_ids_and_without_requests_are_paired_by_id(derta, tmp_path):
    first = [{"id": i, "response": NO} for i in range(4)]
    second = [{"id": i, "response": YES} for i in (3, 2, 9)]
    called = compare(derta, tmp_path, first, second)
    [row] = json.loads(called.out)
    assert (row["pairs"], row["only_first"]) == (2, 2)
    assert "3 prompts are in only one of the files" in called.err


def test_equal_ids_of_different_requests_are_no_pair(derta, tmp_path):
    called = compare(
        derta,
        tmp_path,
        [{"id": 1, "question": "Tea?", "response": NO}],
        [{"id": 1, "question": "Rye?", "response": NO}],
    )
    assert (called.code, "got none in common" in called.err) == (2, True)


def test_several_replies_to_a_prompt_are_its_samples(derta, tmp_path):
    first = [{"question": q, "response": r} for q in ("Tea?", "Rye?") for r in (NO, YES)]
    second = [{"question": q, "response": r} for q in ("Rye?", "Tea?") for r in (YES, f"{YES} Wait.")]
    [row] = json.loads(compare(derta, tmp_path, first, second).out)
    assert (row["pairs"], row["first_value"], row["second_value"]) == (2, 0.5, 0.0)


def test_rows_without_a_request_are_counted(derta, tmp_path):
    rows = [{"question": "Tea?", "response": NO}, {"response": NO}]
    called = compare(derta, tmp_path, rows, rows[:1])
    assert called.code == 0, called.err
    assert "a.jsonl: 1 rows have no request or id and are left out" in called.err


def test_a_run_is_paired_with_a_file_of_others_by_content(derta, tmp_path):
    requests = write_jsonl(tmp_path / "requests.jsonl", [{"question": f"q{i}"} for i in range(3)])
    prompts = tmp_path / "prompts.jsonl"
    assert derta("attack", "direct", "--requests", requests, "--out", prompts).code == 0
    ids = [json.loads(line)["id"] for line in prompts.read_text().splitlines()]
    replies = write_jsonl(tmp_path / "replies.jsonl", [{"prompt_id": one, "text": NO} for one in ids])
    theirs = write_jsonl(tmp_path / "theirs.jsonl", [{"prompt": f"q{i}", "response": YES} for i in (2, 0, 1)])
    called = derta("compare", replies, theirs, "--judge", "refusal", "--json")
    assert called.code == 0, called.err
    assert [(row["pairs"], row["only_first"]) for row in json.loads(called.out)] == [(3, 3)]


def test_the_rates_of_a_mixed_file_are_grouped_by_model_and_attack(derta, tmp_path):
    rows = [
        {"question": f"q{i}", "attack": attack, "model": model, "response": NO if attack == "direct" else YES}
        for i in range(3)
        for attack in ("direct", "pretend")
        for model in ("m", "n")
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    cell = json.loads(derta("judge", path, "--judge", "refusal", "--json").out)
    assert (cell["value"], cell["scored"]) == (0.5, 12)
    assert {(one["method"], one["attack"]): (one["value"], one["scored"]) for one in cell["groups"]} == {
        ("m", "direct"): (1, 3), ("n", "direct"): (1, 3), ("m", "pretend"): (0, 3), ("n", "pretend"): (0, 3)
    }  # fmt: skip
    printed = derta("judge", path, "--judge", "refusal").out
    assert "n, pretend: refused: 0.0% of 3" in " ".join(printed.split())
    assert "groups" not in json.loads(derta("judge", write_jsonl(path, rows[:1]), "--judge", "refusal", "--json").out)
