"""Judges from functions: their verdicts, names and identities."""

import pytest

from derta.errors import DataError
from derta.judges.base import FunctionJudge, from_function, identify_judge
from derta.protocols import Case, Judge
from derta.records import Message, Prompt, Reply, Verdict


def prompt(name: str = "p") -> Prompt:
    messages = (Message(role="user", content="?"),)
    return Prompt(id=name, request_id="r", request="Why?", attack="direct", messages=messages)


def is_long(asked: Prompt, reply: Reply) -> bool | None:
    return len(reply.text) > len(asked.request or "") if reply.text else None


def test_a_function_s_answers_are_verdicts_in_order_under_its_name():
    judge = from_function(is_long)
    cases = [Case(prompt(), Reply(prompt_id="p", sample=i, text=text)) for i, text in enumerate(("Because.", "So", ""))]
    verdicts = list(judge.judge(iter(cases)))
    assert [(one.sample, one.harmful, one.judge) for one in verdicts] == [
        (0, True, "is_long"),
        (1, False, "is_long"),
        (2, None, "is_long"),
    ]
    assert [bool(one.reason) for one in verdicts] == [False, False, True]


def test_a_function_fills_the_field_that_it_measures():
    judge = from_function(is_long, measures="correct", name="length")
    [verdict] = judge.judge([Case(prompt(), Reply(prompt_id="p", text="Because."))])
    assert (judge.measures, verdict.judge, verdict.correct, verdict.harmful) == ("correct", "length", True, None)


def test_a_function_s_verdict_gets_the_case_s_key_and_the_judge_s_name():
    mine = from_function(
        lambda asked, reply: Verdict(prompt_id="?", judge="?", refused=True), measures="refused", name="m"
    )
    [found] = mine.judge([Case(prompt("a"), Reply(prompt_id="a", sample=3, text=""))])
    assert (found.key, found.judge, found.refused) == (("a", 3), "m", True)


@pytest.mark.parametrize("wrong", [1, "yes", (True,)])
def test_a_function_that_returns_no_verdict_is_an_error(wrong: object):
    judge = from_function(lambda asked, reply: wrong, name="f")  # pyright: ignore[reportArgumentType, reportReturnType]
    with pytest.raises(DataError, match="judge f: expected True, False, None or a Verdict, got a"):
        list(judge.judge([Case(prompt(), Reply(prompt_id="p", text="!"))]))


@pytest.mark.parametrize("name", ["a/b", "../x", "", " ", "ü"])
def test_a_judge_s_name_is_valid_in_a_file_s_name(name: str):
    if name:
        with pytest.raises(DataError, match="expected a name of letters"):
            from_function(is_long, name=name)
    else:
        assert from_function(is_long, name=name).name == "is_long"


def test_a_judge_is_identified_by_its_source_or_version():
    assert identify_judge(from_function(is_long)) == identify_judge(from_function(is_long))
    assert identify_judge(from_function(is_long, version="1")) != identify_judge(from_function(is_long))


def test_a_verdict_that_has_the_case_s_key_already_is_returned_unchanged():
    ready = Verdict(prompt_id="p", judge="m", refused=True, score=0.5)
    judge = from_function(lambda asked, reply: ready, measures="refused", name="m")
    [verdict] = judge.judge([Case(prompt(), Reply(prompt_id="p", text="x"))])
    assert verdict is ready


def test_a_function_is_a_judge_without_a_model():
    judge = from_function(is_long)
    assert isinstance(judge, Judge)
    assert judge.uses_model is False


def test_an_object_is_identified_by_its_class_and_a_function_by_its_source():
    class Mine:
        name = "mine"

    assert identify_judge(Mine()).startswith("mine: ")  # pyright: ignore[reportArgumentType]
    first = FunctionJudge("f", "harmful", lambda asked, reply: True)
    second = FunctionJudge("f", "harmful", lambda asked, reply: False)
    assert identify_judge(first) != identify_judge(second)
