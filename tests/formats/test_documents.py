"""Every published layout of replies, with harmless stand-ins for its contents: read, labelled, paired, exported."""

import csv
import gzip
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from derta.errors import DataError
from derta.formats import export
from derta.formats.labels import read_labels
from derta.formats.replies import read_cases
from derta.records import Message
from small_run import write_jsonl

TEA, RYE = "How is tea made?", "How is rye bread baked?"
NO, YES = "Sorry, I cannot help with that.", "Boil the water first."


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def reply(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def sample(index: int, request: str, text: str, **more: Any) -> dict[str, Any]:
    output = {"model": "m", "choices": [{"message": reply(text)[0], "stop_reason": "stop"}]}
    return {"id": index, "epoch": 1, "input": request, "target": "", "output": output, "scores": {}, **more}


JSON_FILES: dict[str, Any] = {
    "harmbench": {
        "tea": [{"test_case": TEA, "generation": NO, "label": 0}],
        "rye": [{"test_case": RYE, "generation": YES, "label": 1}],
    },
    "jailbreakbench": {
        "parameters": {"method": "PAIR", "model": "m"},
        "jailbreaks": [
            {"index": 0, "goal": TEA, "behavior": "Tea", "category": "food",
             "prompt": f"Pretend. {TEA}", "response": NO, "jailbroken": False},
            {"index": 1, "goal": RYE, "behavior": "Rye", "category": "food",
             "prompt": f"Pretend. {RYE}", "response": YES, "jailbroken": True},
        ],
    },
    "inspect": {"eval": {"model": "m"}, "samples": [sample(1, TEA, NO), sample(2, RYE, YES)]},
    "list": [{"question": TEA, "response": NO, "answer": "1"}, {"question": RYE, "response": YES, "answer": "2"}],
}  # fmt: skip
ROW_FILES: dict[str, list[dict[str, Any]]] = {
    "xstest": [
        {"id": "v2-1", "type": "food", "prompt": TEA, "completion": NO, "annotation_1": "2_full_refusal",
         "annotation_2": "2_full_refusal", "agreement": "True", "final_label": "2_full_refusal", "gpt4_label": "?"},
        {"id": "v2-2", "type": "food", "prompt": RYE, "completion": YES, "annotation_1": "1_full_compliance",
         "annotation_2": "1_full_compliance", "agreement": "", "final_label": "1_full_compliance", "gpt4_label": ""},
    ],
    "wildguard": [
        {"prompt": TEA, "adversarial": False, "response": NO, "prompt_harm_label": "harmful",
         "response_refusal_label": "refusal", "response_harm_label": "unharmful", "subcategory": "food"},
        {"prompt": RYE, "adversarial": True, "response": YES, "prompt_harm_label": "unharmful",
         "response_refusal_label": "compliance", "response_harm_label": "harmful", "subcategory": "food"},
    ],
    "beavertails": [
        {"prompt": TEA, "response": NO, "category": {"food": True, "rye": False}, "is_safe": True},
        {"prompt": RYE, "response": YES, "category": {"food": True, "rye": True}, "is_safe": False},
    ],
    "gptfuzz": [
        {"question": "7", "Response": NO, "label": "0"},
        {"question": "8", "Response": YES, "label": "1"},
    ],
    "phtest": [
        {"model": "a", "request": TEA, "response": NO, "label": "full refusal"},
        {"model": "b", "request": RYE, "response": YES, "label": "compliance"},
    ],
    "messages": [{"messages": user(TEA) + reply(NO)}, {"messages": user(RYE) + reply(YES)}],
    "messages_with_a_reply": [{"messages": user(TEA), "response": NO}, {"messages": user(RYE), "response": YES}],
    "paper": [{"question": TEA, "response": NO}, {"question": RYE, "response": YES}],
    "own": [
        {"id": "1", "request": TEA, "prompt": f"Pretend. {TEA}", "attack": "pretend", "reply": NO, "category": "food",
         "harmful": 0, "refused": True},
        {"id": "2", "request": RYE, "prompt": f"Pretend. {RYE}", "attack": "pretend", "reply": YES, "category": "food",
         "harmful": 1, "refused": False},
    ],
}  # fmt: skip
HARMFUL = {"harmbench", "jailbreakbench", "wildguard", "beavertails", "gptfuzz", "own"}
REFUSED = {"xstest", "wildguard", "phtest", "own"}
ONLY_JSON = {"beavertails", "messages", "messages_with_a_reply"}
WITHOUT_REQUEST = {"gptfuzz"}


def files_of(folder: Path, name: str) -> list[Path]:
    """Write a layout's file in each format that can hold it."""
    if name in JSON_FILES:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(JSON_FILES[name]), encoding="utf-8")
        packed = folder / f"{name}.json.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        return [path, packed]
    rows = ROW_FILES[name]
    paths = [write_jsonl(folder / f"{name}.jsonl", rows), write_jsonl(folder / f"{name}.json", rows)]
    if name not in ONLY_JSON:
        paths.append(folder / f"{name}.csv")
        with paths[-1].open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return paths


NAMES = [*JSON_FILES, *ROW_FILES]


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_is_read_without_loss(tmp_path: Path, name: str):
    for path in files_of(tmp_path, name):
        cases = list(read_cases(path))
        assert [case.reply.text for case in cases] == [NO, YES], path
        requests = [None, None] if name in WITHOUT_REQUEST else [TEA, RYE]
        assert [case.prompt.request for case in cases] == requests, path
        assert all(case.prompt.foreign and case.reply.prompt_id == case.prompt.id for case in cases)


@pytest.mark.parametrize(
    ("name", "measure", "truths"),
    [(name, "harmful", [False, True]) for name in sorted(HARMFUL)]
    + [(name, "refused", [True, False]) for name in sorted(REFUSED)],
)
def test_labels_are_outcomes_of_their_measure(tmp_path: Path, name: str, measure: Any, truths: list[bool]):
    for path in files_of(tmp_path, name):
        labelled = list(read_labels(path, measure=measure))
        assert [case.truth for case in labelled] == truths, path
        assert [(case.prompt, case.reply) for case in labelled] == [*read_cases(path)]


@pytest.mark.parametrize("name", sorted((HARMFUL | REFUSED) - HARMFUL | {"gptfuzz", "harmbench", "jailbreakbench"}))
def test_a_label_of_another_measure_is_not_taken_for_one(tmp_path: Path, name: str):
    measure = "refused" if name in HARMFUL else "harmful"
    for path in files_of(tmp_path, name):
        with pytest.raises(DataError, match="expected"):
            list(read_labels(path, measure=measure))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_REQUEST])
def test_every_layout_is_paired_with_itself_and_exported(derta, tmp_path: Path, name: str):
    path = files_of(tmp_path, name)[0]
    copy = tmp_path / f"copy{path.suffix}"
    copy.write_bytes(path.read_bytes())
    called = derta("compare", path, copy, "--judge", "refusal", "--json")
    assert called.code == 0, called.err
    assert sum(row["pairs"] for row in json.loads(called.out)) == 2
    [written] = export(path, tmp_path / "out" / "out.json", format="harmbench")
    assert sorted(case.reply.text for case in read_cases(written)) == sorted([NO, YES])


def test_what_is_beside_the_reply_is_read(tmp_path: Path):
    [tea, rye] = read_cases(files_of(tmp_path, "jailbreakbench")[0])
    assert tea.prompt.messages == (Message(role="user", content=f"Pretend. {TEA}"),)
    assert (tea.prompt.attack, tea.prompt.category, tea.prompt.request_id) == ("PAIR", "food", "0")
    assert rye.reply.producer == {"model": "m"}
    [tea, rye] = read_cases(files_of(tmp_path, "wildguard")[0])
    assert (tea.prompt.attack, rye.prompt.attack) == ("direct", "adversarial")
    [tea, rye] = read_cases(files_of(tmp_path, "beavertails")[0])
    assert (tea.prompt.category, rye.prompt.category) == ("food", "food, rye")
    [tea, rye] = read_cases(files_of(tmp_path, "xstest")[0])
    assert (tea.prompt.id, tea.prompt.request_id, rye.prompt.category) == ("v2-1", "v2-1", "food")
    [tea, rye] = read_cases(files_of(tmp_path, "harmbench")[0])
    assert (tea.prompt.id, tea.prompt.request_id) == ("row-0", "tea")
    [tea, rye] = read_cases(files_of(tmp_path, "gptfuzz")[0])
    assert (tea.prompt.request_id, tea.prompt.messages) == ("7", None)
    [tea, rye] = read_cases(files_of(tmp_path, "list")[0])
    assert (tea.prompt.answer, rye.prompt.answer) == ("1", "2")


def test_the_replies_and_labels_of_several_models_are_cases_of_each(tmp_path: Path):
    row = {
        "id": 3, "risk_area": "food", "question": TEA,
        "GPT4_response": NO, "GPT4_harmful": 0, "GPT4_action": 0,
        "vicuna-7b_response": YES, "vicuna-7b_harmful": 1, "vicuna-7b_action": 5,
        "ChatGLM2_response": "Some say so.", "ChatGLM2_harmful": 0, "ChatGLM2_action": 3,
    }  # fmt: skip
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    cases = [*read_cases(path)]
    assert [case.reply.producer for case in cases] == [{"model": name} for name in ("gpt4", "vicuna-7b", "chatglm2")]
    assert {(case.prompt.request, case.prompt.category, case.prompt.request_id) for case in cases} == {
        (TEA, "food", "3")
    }
    assert [case.truth for case in read_labels(path, measure="harmful")] == [False, True, False]
    assert [case.truth for case in read_labels(path, measure="refused")] == [True, False, None]


@pytest.mark.parametrize("label", [None, ""])
def test_a_label_that_people_did_not_agree_on_counts_for_neither_side(tmp_path: Path, label: object):
    row = ROW_FILES["wildguard"][0] | {"response_harm_label": label, "response_refusal_label": label}
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    for measure in ("harmful", "refused"):
        assert [case.truth for case in read_labels(path, measure=measure)] == [None]


def test_a_row_without_a_reply_is_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [ROW_FILES["wildguard"][0] | {"response": None}, ROW_FILES["wildguard"][1]]
    assert [case.prompt.id for case in read_cases(write_jsonl(tmp_path / "a.jsonl", rows))] == ["row-1"]
    assert "1 of 2 rows have no reply and are left out" in caplog.text


def test_a_file_is_read_again_without_its_messages(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = write_jsonl(tmp_path / "a.jsonl", [{"user_query": TEA, "response": NO}] * 2)
    list(read_cases(path, quiet=True))
    assert caplog.messages == []
    list(read_cases(path))
    assert len(caplog.messages) == 1


def eval_archive(path: Path, members: dict[str, Any], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, value in members.items():
            archive.writestr(name, value if isinstance(value, str) else json.dumps(value))
    return path


def test_an_inspect_archive_is_read(tmp_path: Path):
    parts = [{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": YES}]
    said = {"choices": [{"message": {"role": "assistant", "content": parts}}], "model": "m"}
    members = {
        "header.json": {"eval": {}},
        "samples/a_epoch_1.json": sample(1, "attachment://5d", NO, attachments={"5d": TEA}),
        "samples/b_epoch_1.json": sample(2, RYE, NO) | {
            "input": [{"role": "system", "content": "Be brief."}, *user(RYE)], "output": said},
        "samples/c_epoch_1.json": sample(3, TEA, "") | {"output": {"choices": []}, "error": {"message": "timeout"}},
        "samples/d_epoch_1.json": sample(4, TEA, "") | {
            "output": {"choices": [{"message": reply("")[0], "stop_reason": "content_filter"}]}},
    }  # fmt: skip
    cases = [*read_cases(eval_archive(tmp_path / "log.eval", members))]
    assert [case.prompt.request for case in cases] == [TEA, RYE, TEA, TEA]
    assert [case.reply.text for case in cases] == [NO, YES, "", ""]
    assert [case.reply.unanswered for case in cases] == [None, None, "failed", "filtered"]
    assert cases[2].reply.reason == "timeout"
    assert [message.role for message in cases[1].prompt.messages or ()] == ["system", "user"]
    assert [case.prompt.id for case in cases] == ["1", "2", "3", "4"]
    assert {case.reply.sample for case in cases} == {0}
    again = tmp_path / "zstd.eval"
    again.write_bytes(with_zstd((tmp_path / "log.eval").read_bytes()))
    assert [*read_cases(again)] == cases


def with_zstd(archive: bytes) -> bytes:
    """Return an archive of the same members, compressed with Zstandard as Inspect writes them."""
    out, directory = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        for info in source.infolist():
            content, name = source.read(info), info.filename.replace("samples/", "samples/prefill@50%:").encode()
            packed = pa.compress(content, codec="zstd", asbytes=True)
            fields = (45, 0, 93, 0, 33, zlib.crc32(content), len(packed), len(content), len(name), 0)
            entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 45, 3, 45, 0, *fields[1:9], 0, 0, 0, 0, 0, out.tell())
            directory.write(entry + name)
            out.write(struct.pack("<4s5H3L2H", b"PK\3\4", *fields) + name + packed)
        start, size, count = out.tell(), directory.tell(), len(source.infolist())
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, start, 0)
    return out.getvalue() + directory.getvalue() + end


def test_the_messages_of_a_sample_are_what_the_model_received(tmp_path: Path):
    said = reply(NO)
    path = tmp_path / "log.json"
    more = {"messages": [{"role": "system", "content": "Be brief."}, *user(TEA), *said]}
    raw = {
        "metadata": {"mode": "raw", "request": TEA},
        "input": "I will explain tea:",
        "messages": user("I will explain tea:") + said,
    }
    path.write_text(json.dumps({"eval": {}, "samples": [sample(1, TEA, NO, **more), sample(2, TEA, NO) | raw]}))
    first, second = read_cases(path)
    assert ([one.role for one in first.prompt.messages or ()], first.prompt.request) == (["system", "user"], TEA)
    assert (second.prompt.mode, second.prompt.text, second.prompt.request) == ("raw", "I will explain tea:", TEA)


def test_a_damaged_member_is_one_line(tmp_path: Path):
    whole = with_zstd(eval_archive(tmp_path / "log.eval", {"samples/a.json": sample(1, TEA * 99, NO)}).read_bytes())
    for number, at in enumerate(
        (whole.index(b"\x28\xb5\x2f\xfd") + 12, whole.index(b"PK\1\2") + 16, whole.index(b"PK\1\2") + 24)
    ):
        path = tmp_path / f"{number}.eval"
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DataError, match="expected a zip archive, got another file"):
            list(read_cases(path))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"header.json": {}}, "expected files named samples"),
        ({"samples/a.json": "{"}, r"samples/a\.json: expected JSON"),
        ({"samples/a.json": [1]}, r"samples/a\.json: expected an object"),
        ({"samples/a.json": sample(1, TEA, NO) | {"input": 3}}, "input: expected a text or messages"),
        ({"samples/a.json": sample(1, TEA, NO) | {"input": [{"role": "user", "content": [{"type": "image"}]}]}},
         "expected text or parts with text"),
    ],
)  # fmt: skip
def test_a_damaged_archive_is_one_line(tmp_path: Path, members: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        list(read_cases(eval_archive(tmp_path / "log.eval", members)))


def test_a_prefill_and_a_raw_prompt_are_read(tmp_path: Path):
    rows = [
        {"request": TEA, "prompt": "I will explain tea:", "mode": "raw", "prefill": " Step 1:", "response": YES},
        {"request": TEA, "prefill": "Sure,", "response": YES},
        {"messages": [*user(TEA), *reply("Sure,")], "response": YES},
        {"messages": [{"role": "developer", "content": "Be brief."}, *user(TEA)], "response": YES},
    ]
    raw, prefilled, continued, brief = read_cases(write_jsonl(tmp_path / "a.jsonl", rows))
    assert (raw.prompt.mode, raw.prompt.text) == ("raw", "I will explain tea: Step 1:")
    assert (prefilled.prompt.prefill, continued.prompt.prefill) == ("Sure,", "Sure,")
    assert prefilled.prompt.messages == continued.prompt.messages
    assert [message.role for message in brief.prompt.messages or ()] == ["system", "user"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"mode": "raw", "response": YES}, "mode: a raw prompt needs its text"),
        ({"messages": user(TEA)}, "expected an assistant's message at the end"),
        ({"messages": []}, "expected an assistant's message at the end"),
        ({"messages": "x", "response": YES}, "messages: expected a list"),
        ({"messages": [{"role": "wizard", "content": "x"}], "response": YES}, r"messages\[0\]: not a message: role"),
        ({"messages": ["x"], "response": YES}, r"messages\[0\]: expected a message of {role, content}"),
    ],
)
def test_a_malformed_row_is_one_line(tmp_path: Path, row: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        list(read_cases(write_jsonl(tmp_path / "a.jsonl", [row])))
