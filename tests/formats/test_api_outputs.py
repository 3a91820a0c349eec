import json
from pathlib import Path
from typing import Any

import pytest

from derta.columns import LABEL
from derta.errors import DataError
from derta.formats.labels import LABELS, read_labels
from derta.formats.replies import read_cases
from small_run import write_jsonl

NO, YES = "I'm sorry, but I can't help with that.", "Mix it and bake it."
TEA, RYE = "How is tea made?", "How is rye bread made?"
PAIRS = [(TEA, NO), (RYE, YES)]


def answer(text: str) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}


ROWS: dict[str, list[dict[str, Any]]] = {
    "openai_batch": [
        {"id": "b", "custom_id": q, "response": {"status_code": 200, "body": {"model": "m", "choices": [answer(a)]}}}
        for q, a in PAIRS
    ],
    "anthropic_batch": [
        {
            "custom_id": q,
            "result": {"type": "succeeded", "message": {"model": "m", "content": [{"type": "text", "text": a}]}},
        }
        for q, a in PAIRS
    ],
    "chat_completion": [{"id": "c", "prompt": q, "model": "m", "choices": [answer(a)]} for q, a in PAIRS],
    "completion": [{"prompt": q, "model": "m", "choices": [{"text": a}]} for q, a in PAIRS],
    "fastchat": [{"question_id": q, "model_id": "m", "choices": [{"index": 0, "turns": [a]}]} for q, a in PAIRS],
    "lm_eval": [
        {"doc_id": i, "doc": {}, "target": "t", "arguments": {"gen_args_0": {"arg_0": q}}, "resps": [[a]]}
        for i, (q, a) in enumerate(PAIRS)
    ],
    "lm_eval_list": [
        {"doc_id": i, "arguments": [[q, {"until": []}]], "resps": [[a]]} for i, (q, a) in enumerate(PAIRS)
    ],
    "promptfoo": [{"prompt": {"raw": q}, "provider": {"id": "m"}, "response": {"output": a}} for q, a in PAIRS],
    "vllm": [{"prompt": q, "outputs": [{"text": a}]} for q, a in PAIRS],
    "list": [{"prompt": q, "response": [a]} for q, a in PAIRS],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in PAIRS
    ],
    "llama_factory": [{"prompt": q, "predict": a, "label": "a reference"} for q, a in PAIRS],
    "pipeline": [{"Prompt": q, "Generated Text": a} for q, a in PAIRS],
}  # fmt: skip
BY_ID = {"openai_batch", "anthropic_batch", "fastchat"}


@pytest.mark.parametrize("name", ROWS)
def test_what_engines_and_tools_write_is_read(tmp_path: Path, name: str):
    cases = list(read_cases(write_jsonl(tmp_path / "a.jsonl", ROWS[name])))
    assert [case.reply.text for case in cases] == [NO, YES]
    names = [case.prompt.request_id if name in BY_ID else case.prompt.request for case in cases]
    assert names == [TEA, RYE]
    if "model" in json.dumps(ROWS[name]) or name == "promptfoo":
        assert {(case.reply.producer or {}).get("model") for case in cases} == {"m"}


@pytest.mark.parametrize(
    "document",
    [
        {"prompt": [TEA, RYE], "response": [NO, YES]},
        {"prompt": {"0": TEA, "1": RYE}, "response": {"0": NO, "1": YES}},
        {TEA: {"response": NO}, RYE: {"response": YES}},
        {"config": {"seed": 1}, "results": [{"prompt": q, "response": a} for q, a in PAIRS]},
        {"results": {"version": 3, "results": ROWS["promptfoo"]}},
    ],
)
def test_a_table_in_one_object_is_read(tmp_path: Path, document: object):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert [case.reply.text for case in read_cases(path)] == [NO, YES]


@pytest.mark.parametrize(
    "document",
    [
        {"prompt": TEA, "response": YES},  # one row
        {"messages": [{"role": "user", "content": TEA}, {"role": "assistant", "content": YES}]},
    ],
)
def test_one_object_that_is_a_row_is_one(tmp_path: Path, document: object):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert [(case.prompt.request, case.reply.text) for case in read_cases(path)] == [(TEA, YES)]


def test_a_request_that_failed_is_unanswered_and_a_filtered_one_too(tmp_path: Path):
    rows = [
        {"custom_id": "a", "response": None, "error": {"message": "timed out"}},
        {"custom_id": "b", "result": {"type": "expired"}},
        {"custom_id": "c", "response": {"body": {"choices": [answer("") | {"finish_reason": "content_filter"}]}}},
        {"prompt": {"raw": TEA}, "provider": "m", "error": "rate limit"},
        {"custom_id": "d", "response": {"body": {"choices": [{"message": {"content": None, "refusal": NO}}]}}},
    ]
    replies = [case.reply for case in read_cases(write_jsonl(tmp_path / "a.jsonl", rows))]
    assert [(one.unanswered, one.reason) for one in replies[:4]] == [
        ("failed", "timed out"),
        ("failed", "expired"),
        ("filtered", "content_filter"),
        ("failed", "rate limit"),
    ]
    assert (replies[4].unanswered, replies[4].text) == (None, NO)


def test_several_replies_to_a_prompt_are_samples(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": TEA, "label": 1, "responses": [NO, YES]}])
    assert [(case.reply.sample, case.reply.text) for case in read_cases(path)] == [(0, NO), (1, YES)]
    with pytest.raises(DataError, match="expected a column refused"):  # one label of two replies is that of none
        list(read_labels(path, measure="refused"))


def test_each_of_several_replies_has_its_label(tmp_path: Path):
    row = {"prompt": TEA, "label": [1, 0], "responses": [NO, YES]}
    path = write_jsonl(tmp_path / "a.jsonl", [row, {"prompt": RYE, "label": 1, "responses": [NO]}])
    assert [case.truth for case in read_labels(path, measure="refused")] == [True, False, True]


def test_the_columns_of_labels_are_those_of_all_measures():
    assert {name for columns in LABELS.values() for name in columns} == LABEL


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"doc_id": 1, "resps": [[[-1.0, False]]]}, "resps: expected generated texts"),
        ({"custom_id": "a", "response": {"body": {}}}, "expected choices or an error in the line of a batch"),
        ({"prompt": TEA, "choices": [{"index": 0}]}, "expected a message, a text or turns"),
        ({"prompt": TEA, "response": {"candidates": []}}, "response: expected text"),
        ({"prompt": TEA, "response": None}, "expected replies, got none in its 1 rows"),
    ],
)
def test_what_has_no_text_is_one_line(tmp_path: Path, row: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        list(read_cases(write_jsonl(tmp_path / "a.jsonl", [row])))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "prompt;response\nTea?;Boil it, then wait.\n"),
        ("a.csv", "\ufeffprompt\tresponse\r\nTea?\tBoil it, then wait.\r\n"),
        ("a.tsv", 'prompt,response\nTea?,"Boil it, then wait."\n'),
        ("a.csv", "prompt|response\nTea?|Boil it, then wait.\n"),
    ],
)
def test_the_delimiter_of_a_table_is_that_of_its_header(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    [case] = read_cases(tmp_path / name)
    assert (case.prompt.request, case.reply.text) == ("Tea?", "Boil it, then wait.")


def test_replies_that_start_with_their_prompt_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": q, "generated_text": f"{q}\n{a}"} for q, a in PAIRS])
    list(read_cases(path))
    assert caplog.messages == [
        f"{path}: 2 of 2 replies start with their prompt, which is judged too; remove it from the texts"
    ]
