import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.errors import DataError
from derta.formats.replies import open_prompts, read_cases
from derta.pipeline.judge import find_judge, judge_file


def prompt(name: str, text: str = "Ask?") -> dict:
    return {"id": name, "request_id": "r", "request": text, "attack": "direct", "mode": "raw", "text": text}


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_prompts_are_found_by_id_at_any_line(tmp_path: Path):
    path = write(tmp_path / "prompts.jsonl", [prompt("a", "ä und 茶"), prompt("b"), prompt("c", "end")])
    path.write_text("\ufeff\n" + path.read_text(encoding="utf-8").replace("\n", "\n\n"), encoding="utf-8")
    with open_prompts(path) as opened:
        prompts = [opened.find(name) for name in ("c", "a", "b", "a")]
        assert [one and one.request for one in prompts] == ["end", "ä und 茶", "Ask?", "ä und 茶"]
        assert opened.find("d") is None


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=6, unique=True))
def test_any_prompt_comes_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, texts: list[str]):
    path = write(tmp_path_factory.mktemp("p") / "prompts.jsonl", [prompt(str(i), t) for i, t in enumerate(texts)])
    with open_prompts(path) as opened:
        prompts = [opened.find(str(i)) for i in reversed(range(len(texts)))]
    assert [one and one.request for one in reversed(prompts)] == texts


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([{"request": "no id"}], r"prompts.jsonl:1: not a prompt"),
        (["text"], r"prompts.jsonl:1: not a prompt"),
        ([prompt("a") | {"mode": "chat"}], r"prompts.jsonl:1: not a prompt: row: a chat prompt"),
    ],
)
def test_a_prompt_that_is_none_is_reported_by_its_line(rows: list, part: str, tmp_path: Path):
    write(tmp_path / "prompts.jsonl", rows)
    path = write(tmp_path / "replies.jsonl", [{"prompt_id": "a", "text": "Yes."}])
    with pytest.raises(DataError, match=part):
        list(read_cases(path))


def test_rows_of_instruction_and_output_are_read_as_question_and_response(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [{"instruction": "Ask?", "output": "Yes."}, {"question": "Q", "response": "R"}])
    assert [(case.prompt.request, case.reply.text) for case in read_cases(path)] == [("Ask?", "Yes."), ("Q", "R")]


@pytest.mark.extra
def test_a_long_file_is_judged_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("derta.pipeline.file_rates._MOST_SINGLE", 100)  # from there on no counts by prompt are held
    path, out = tmp_path / "replies.jsonl", tmp_path / "verdicts.jsonl"
    peaks = []
    for count in (200, 4000):
        write(path, [{"question": "Ask?", "response": f"Sorry, I cannot help with {i}."} for i in range(count)])
        tracemalloc.start()
        cell = judge_file(path, judge=find_judge("refusal"), out=out).total.cell
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (cell.value, cell.scored) == (1.0, count)
        assert out.read_text(encoding="utf-8").count("\n") == count
    assert peaks[1] < peaks[0] + 200_000  # bytes; 4,000 verdicts alone would take megabytes


def test_a_file_that_breaks_off_leaves_no_verdicts(tmp_path: Path):
    path = tmp_path / "replies.jsonl"
    path.write_text('"one"\n{"question": "?"}\n', encoding="utf-8")
    with pytest.raises(DataError):
        judge_file(path, judge=find_judge("refusal"), out=tmp_path / "verdicts.jsonl")
    assert [entry.name for entry in tmp_path.iterdir()] == ["replies.jsonl"]
