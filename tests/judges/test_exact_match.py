import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.judges import build_judge
from derta.judges.choices import parse_choice, parse_options
from derta.judges.exact_match import truncate_at_next_question
from derta.judges.final_numbers import final_number
from derta.protocols import Case
from derta.records import Prompt, Reply, Verdict
from research_data import research_path

OPTIONS = {"A": "12", "B": "16", "C": "12*sqrt(3)", "D": "a blue bird"}
ASKED = "Pick.\n-options\n-(A) 12\n-(B) 16\n-(C) 12*sqrt(3)\n-(D) a blue bird"


def prompt(answer: str | None, request: str = "?") -> Prompt:
    return Prompt(id="1", request_id="1", request=request, attack="direct", mode="raw", text="?", answer=answer)


def judged(judge: str, asked: Prompt, text: str) -> Verdict:
    [verdict] = build_judge(judge).judge([Case(asked, Reply(prompt_id="1", text=text))])
    return verdict


def correct(judge: str, answer: str | None, text: str, request: str = "?") -> bool | None:
    return judged(judge, prompt(answer, request), text).correct


@given(st.text(max_size=200))
def test_any_text_is_read_without_a_crash(text: str):
    final_number(text, question=text)
    parse_choice(text, parse_options(text))


@pytest.mark.parametrize("text", ["350", "So they have 350 pesos together.", "$350.00"])
def test_gsm8k_accepts_the_reference_in_any_form(text: str):
    assert correct("gsm8k", "a <<1+1=2>>2\n#### 350", text) is True


def test_gsm8k_without_a_number_is_wrong():
    assert correct("gsm8k", "#### 350", "I cannot tell.") is False


def test_mmlu_compares_letters():
    assert correct("mmlu", "-C", "The correct option is (C).", ASKED) is True
    assert correct("mmlu", "C", "The correct option is (B).", ASKED) is False
    assert correct("mmlu", "C", "No idea.", ASKED) is False


def test_several_options_are_no_answer_with_a_reason():
    verdict = judged("mmlu", prompt("A", ASKED), "Here (A) and (B) are correct.")
    assert (verdict.correct, verdict.reason) == (False, "several options in the reply")


@pytest.mark.parametrize(
    "next_one", ["\n\nQuestion: 9 + 9?\nAnswer: (D) 18", "\nQ2: And?\nA: (D) 18", "\n### Input: (D) 18"]
)
def test_a_reply_that_continues_with_another_question_is_judged_by_its_first_answer(next_one: str):
    assert correct("gsm8k", "#### 7", f"So it is 7.{next_one}") is True
    assert correct("mmlu", "B", f"The correct option is (B).{next_one}", ASKED) is True


@given(st.text(max_size=200))
def test_a_truncated_answer_is_the_beginning_of_its_text(text: str):
    assert text.startswith(truncate_at_next_question(text))
    assert bool(truncate_at_next_question(text).strip()) == bool(text.strip())


def test_the_references_of_another_task_are_unscored_with_the_name_of_its_judge():
    of_gsm8k, of_mmlu = judged("gsm8k", prompt("-C", ASKED), "C"), judged("mmlu", prompt("A and B get 4.\n#### 4"), "4")
    assert (of_gsm8k.correct, of_mmlu.correct) == (None, None)
    assert "judge mmlu" in of_gsm8k.reason
    assert "judge gsm8k" in of_mmlu.reason


@pytest.mark.parametrize("judge", ["gsm8k", "mmlu"])
@pytest.mark.parametrize(("answer", "text"), [(None, "5"), ("#### 5", " "), ("-Q", "C")])
def test_what_cannot_be_scored_is_none_with_a_reason(judge: str, answer: str | None, text: str):
    verdict = judged(judge, prompt(answer), text)
    assert verdict.correct is None
    assert verdict.reason


@pytest.mark.extra
@pytest.mark.parametrize(
    "unit", ["1", "1,000,", "(", "1/", "= 1 so ", "option is ", "A) is ", "A) are ", "-", ":\n", "\n", "\nQ:", " "]
)
def test_a_hostile_text_of_250_kb_takes_seconds_at_most(unit: str):
    text = unit * (250_000 // len(unit))
    start = time.monotonic()
    final_number(text)
    parse_choice(truncate_at_next_question(text), OPTIONS)
    assert time.monotonic() - start < 10  # linear takes less than 1 s


def _accuracy(task: str, model: str) -> float:
    path = research_path("published", f"{task}_llama3-8b_{model}.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    hits = [correct(task, row["answer"], row["response"], row["question"]) for row in rows]
    assert None not in hits
    return 100 * sum(map(bool, hits)) / len(hits)


@pytest.mark.data
@pytest.mark.parametrize(
    ("task", "model", "paper"),
    [
        ("gsm8k", "vanill", 43.8),
        ("gsm8k", "dpo", 41.6),
        ("gsm8k", "derta", 46.4),
        ("mmlu", "dpo", 55.4),
        ("mmlu", "derta", 50.4),
    ],
)
def test_published_accuracy_is_reproduced(task: str, model: str, paper: float):
    assert abs(_accuracy(task, model) - paper) <= 1.5


@pytest.mark.data
def test_the_final_number_of_a_solution_by_people_is_that_of_its_last_line():
    lines = research_path("helpfulness", "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    solutions = [(row, *re.sub("<<[^>]*>>", "", row["answer"]).rsplit("####", 1)) for row in rows]
    hits = [correct("gsm8k", f"#### {number}", text, row["question"]) for row, text, number in solutions]
    assert None not in hits
    assert sum(map(bool, hits)) / len(hits) > 0.995  # the others reason in another unit, or to another result


@pytest.mark.data
def test_the_published_vanilla_mmlu_file_holds_more_right_letters_than_the_paper_says():
    # 258 of its 500 replies choose the reference letter (254 of them with its text); the paper says 49.0 (245).
    assert _accuracy("mmlu", "vanill") == pytest.approx(51.6)
