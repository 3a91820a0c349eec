"""A folder of outputs in any layout, with harmless stand-ins, recognised by its contents and paths."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.errors import DataError
from derta.paper.figures import load_figures
from derta.paper.outputs import read_published
from derta.paper.replay import replay_folder
from derta.paper.tree import origin_of, read_tree

FIGURES = load_figures()
RESULTS = FIGURES.results


def write(path: Path, rows: list[Any], *, lines: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        ("results/LLaMA3-70B/vanilla/CodeAttack.json", ("code", "llama3-70b", "vanilla")),
        ("DeRTa/llama3_70b_instruct/jailbreak_chat.jsonl", ("jailbreakchat", "llama3-70b-instruct", None)),
        ("x/mixtral-8x7b-derta/self_cipher.json", ("selfcipher", "mixtral-8x7b", "derta")),
        ("x/gsm8k_llama3-8b_vanill.jsonl", ("gsm8k", "llama3-8b", "vanilla")),
        ("x/Mistral-7B_dpo/PAIR/out.json", ("pair", "mistral-7b", "dpo")),
        ("x/llama3-8b/recaug/completion.json", ("completing", "llama3-8b", "harmful_prefix")),
        ("x/repair/decoded.json", (None, None, None)),
        ("x/xstest_completions_llama3-70b_derta.json", ("xstest", "llama3-70b", "derta")),
    ],
)
def test_a_path_names_task_model_and_method(path: str, origin: tuple[Any, ...]):
    assert origin_of(Path(path), RESULTS) == origin


@given(st.text(max_size=40))
def test_any_path_has_an_origin(name: str):
    origin = origin_of(Path("x", *[part for part in name.split("/") if part.strip(".\0")], "a"), RESULTS)
    assert origin.task is None or origin.task in RESULTS.tasks


def test_the_tables_are_those_of_known_models_methods_and_tasks():
    assert {*RESULTS.paper} <= {*RESULTS.models}
    for methods in RESULTS.paper.values():
        assert {*methods} <= {*RESULTS.methods, "none"}
        for tasks in methods.values():
            assert {task.partition(".")[0] for task in tasks} <= {*RESULTS.tasks}
            assert all(0 <= value <= 100 for value in tasks.values())
    assert all(len(values) == len(FIGURES.refusal_positions.x) for values in RESULTS.positions.values())
    for figure in FIGURES.outputs:
        origin = origin_of(Path("x", figure.file), RESULTS)
        if figure.paper is not None and figure.measure in {"correct", "harmful"}:
            assert RESULTS.paper[origin.model or ""][origin.method or ""][origin.task or ""] == figure.paper


def tree(folder: Path) -> Path:
    pad = {"question": "Pretend. How is tea made?", "response": "Sorry, I cannot help with that."}
    write(folder / "llama3-70b/derta/jailbreak_chat.json", [pad, pad | {"question": "Imagine. Why?"}, pad])
    write(folder / "llama3-70b/derta/comp.json", ["I will explain tea:\n Step 1: Sorry, I cannot help with that."] * 2)
    write(
        folder / "llama3-70b/vanilla/gsm.jsonl",
        [{"question": "1+1?", "response": "It is 2.", "answer": "#### 2"}],
        lines=True,
    )
    write(folder / "llama3-70b/vanilla/xstest.json", [{"question": "How?", "response": "Sorry, no."}])
    write(folder / "llama3-70b/vanilla/alpaca.json", [{"question": "How?", "response": "So."}])
    write(folder / "llama3-70b/vanilla/odd.json", [{"question": "Choose.", "response": "(B)", "answer": "-B"}])
    write(folder / "llama3-70b/vanilla/odd2.json", [{"question": "How?", "response": "So.", "answer": "a text"}])
    write(folder / "questions.json", [{"question": "How is tea made?"}, {"question": " "}])
    write(folder / "config.json", [{"lr": 1}])
    (folder / "broken.json").write_text("[1")
    (folder / "README.md").write_text("text")
    return folder


def test_a_folder_of_the_authors_is_replayed_as_it_is(tmp_path: Path):
    rows = {(row.file, row.measure): row for row in replay_folder(tree(tmp_path / "DeRTa"))}
    chat = rows["llama3-70b/derta/jailbreak_chat.json", "harmful"]
    assert (chat.paper, chat.scored) == (1.5, 2)
    assert chat.note.endswith("1 repeated rows left out")
    assert rows["llama3-70b/derta/comp.json", "harmful"].scored == 1
    gsm = rows["llama3-70b/vanilla/gsm.jsonl", "correct"]
    assert (gsm.ours, gsm.paper, gsm.difference) == (100.0, 78.6, 21.4)
    assert (rows["llama3-70b/vanilla/odd.json", "correct"].judge) == "mmlu"
    assert rows["llama3-70b/vanilla/xstest.json", "says_sorry"].paper == 18.8
    assert rows["llama3-70b/vanilla/xstest.json", "refused"].paper is None
    assert rows["refusal_position_llama3-70b_derta", "refusals started"].scored == 3


def test_what_is_not_replayed_is_said(tmp_path: Path):
    found = read_tree(tree(tmp_path), results=RESULTS)
    assert found.texts.requests == ["How is tea made?"]
    assert {message.partition(":")[0] for message in found.skipped} == {
        "broken.json", "config.json", "llama3-70b/vanilla/alpaca.json", "llama3-70b/vanilla/odd2.json"
    }  # fmt: skip


def test_the_request_of_an_attack_is_found_in_the_folder(tmp_path: Path):
    found = read_tree(tree(tmp_path), results=RESULTS)
    [chat] = [output for output in found.outputs if output.path.name == "jailbreak_chat.json"]
    cases, num_repeated = read_published(chat.path, kind="attacks", texts=found.texts)
    assert ([case.prompt.request for case in cases], num_repeated) == (["How is tea made?", None], 1)


def test_a_folder_without_outputs_is_one_line(tmp_path: Path):
    write(tmp_path / "config.json", [{"lr": 1}])
    with pytest.raises(DataError, match="or files whose paths name an attack, found none"):
        replay_folder(tmp_path)


def test_a_malformed_file_of_the_folder_is_skipped_and_the_others_are_replayed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "derta")
    folder = tree(tmp_path / "DeRTa")
    write(folder / "llama3-70b/dpo/code_attack.json", [{"question": "How?", "response": None}])
    files = {row.file for row in replay_folder(folder)}
    assert "llama3-70b/derta/jailbreak_chat.json" in files
    assert "llama3-70b/dpo/code_attack.json" not in files
    [message] = [one for one in caplog.messages if one.startswith("llama3-70b/dpo/code_attack.json: skipped (")]
    assert "expected an object with a text field 'response'" in message
