import logging

import pytest

from derta.judges import JUDGES, uses_model
from derta.protocols import Case, Display, Judge, NoProgress
from derta.records import Prompt, Reply


class Complete:
    name, measures, uses_model = "mine", "refused", False

    def judge(self, cases):
        yield from ()


def test_an_object_with_all_attributes_is_a_judge_without_inheritance():
    assert isinstance(Complete(), Judge)


@pytest.mark.parametrize("attribute", ["name", "measures", "uses_model", "judge"])
def test_an_object_that_lacks_one_attribute_is_no_judge(attribute):
    members = {name: value for name, value in vars(Complete).items() if not name.startswith("_") and name != attribute}
    assert not isinstance(type("Incomplete", (), members)(), Judge)


@pytest.mark.parametrize("name", [name for name in JUDGES if not uses_model(name)])
def test_a_judge_of_the_table_meets_the_protocol(name):
    judge = JUDGES[name]()
    assert isinstance(judge, Judge)
    assert judge.uses_model is False


def test_a_case_is_a_prompt_and_its_reply():
    prompt = Prompt(id="p", request_id="r", attack="direct", mode="raw", text="?")
    reply = Reply(prompt_id="p", text="Yes.")
    assert Case(prompt, reply) == (prompt, reply)


def test_the_default_display_writes_nothing_and_logs_under_the_name_of_the_library(capfd):
    display = Display()
    assert display.logger is logging.getLogger("derta")
    with display.progress.task("replies", total=2) as task:
        task.set_total(3)
        task.update(3)
    assert capfd.readouterr() == ("", "")


def test_a_silent_task_lets_errors_of_its_block_through():
    with pytest.raises(KeyError, match="lost"), NoProgress().task("replies", total=1):
        raise KeyError("lost")
