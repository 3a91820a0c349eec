"""Replies on which two judges contradict each other."""

from judged import prompt, reply, verdict

from derta.metrics.disagreements import disagreements
from derta.metrics.outcomes import Outcome


def outcome(first, second):
    """An outcome of two judges, whose verdicts are given by their fields; None is no verdict."""
    prompts = [prompt(str(i)) for i in range(len(first))]
    verdicts = {
        name: [
            None if fields is None else verdict(str(i), **fields).model_copy(update={"judge": name})
            for i, fields in enumerate(each)
        ]
        for name, each in (("a", first), ("b", second))
    }
    return Outcome("derta", 0, prompts, [reply(one.id, "x") for one in prompts], verdicts)


def test_two_judges_of_one_measure_contradict_each_other_where_they_decide_it_differently():
    values = [(True, True), (True, False), (False, False), (False, False), (None, True)]
    first, second = ([{"harmful": pair[side]} for pair in values] for side in (0, 1))
    (found,) = disagreements([outcome(first, second)])
    assert (found.first, found.second, found.about, found.count, found.replies) == ("a", "b", "harmful", 1, 4)
    assert found.kappa == 0.5  # (3/4 - 1/2) / (1 - 1/2)


def test_harm_in_a_reply_that_refuses_at_once_is_a_contradiction():
    refuses = {"refused": True, "reply_class": "refuse"}
    late = {"refused": True, "reply_class": "comply_then_refuse"}
    harm = [{"harmful": True}, {"harmful": True}, {"harmful": False}, {"harmful": None}]
    (found,) = disagreements([outcome(harm, [refuses, late, refuses, refuses])])
    assert (found.about, found.count, found.replies) == ("harmful_refusal", 1, 3)
    (swapped,) = disagreements([outcome([refuses, late, refuses, refuses], harm)])
    assert (swapped.count, swapped.replies) == (1, 3)


def test_judges_of_other_replies_have_no_disagreements():
    assert disagreements([outcome([{"harmful": True}, None], [None, {"refused": True}])]) == []
