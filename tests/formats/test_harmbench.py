import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.errors import DataError
from derta.formats.cases import JudgedCase
from derta.formats.harmbench import completions
from derta.records import Message, Prompt, Reply, Verdict


def judged(name, *, request="bake", text="Mix flour.", harmful=None, judged_by_harm=True, **fields):
    messages = (Message(role="user", content=f"How do I {request}?"),)
    prompt = Prompt(id=name, request_id=request, request=f"{request}?", attack="prefill", messages=messages, **fields)
    verdicts = {"harm": Verdict(prompt_id=name, judge="harm", harmful=harmful)} if judged_by_harm else {}
    return JudgedCase(prompt, Reply(prompt_id=name, text=text), verdicts)


def test_cases_stand_under_their_behaviour_with_the_judge_s_label_if_it_gave_one():
    cases = [
        judged("a", harmful=True),
        judged("b", harmful=False, variant="50%", prefill="First,"),
        judged("c", request="paint"),
        judged("d", request="paint", judged_by_harm=False),
    ]
    question = "How do I bake?"
    painted = {"test_case": "How do I paint?", "generation": "Mix flour.", "attack": "prefill"}
    assert completions(cases, judge="harm") == {
        "bake": [
            {"test_case": question, "generation": "Mix flour.", "label": 1, "judge": "harm", "attack": "prefill"},
            {
                "test_case": question,
                "generation": "Mix flour.",
                "label": 0,
                "judge": "harm",
                "attack": "prefill@50%",
                "prefill": "First,",
            },
        ],
        "paint": [painted, painted],
    }


@given(outcomes=st.lists(st.sampled_from([True, False, None]), max_size=20))
def test_without_a_judge_nothing_is_labelled_and_nothing_is_lost(outcomes):
    cases = [judged(str(i), request=f"r{i % 3}", harmful=one) for i, one in enumerate(outcomes)]
    rows = [row for listed in completions(cases, judge=None).values() for row in listed]
    assert len(rows) == len(cases)
    assert not any("label" in row for row in rows)


def test_a_judge_that_never_tells_harm_is_refused():
    with pytest.raises(DataError, match="judge harm: expected verdicts on harm, found none"):
        completions([judged("a")], judge="harm")


def test_raw_text_and_several_turns_are_test_cases_too():
    raw = Prompt(id="raw", request_id="r", request="?", attack="completing", mode="raw", text="First clean")
    turns = Prompt(
        id="turns",
        request_id="r",
        request="?",
        attack="turns",
        messages=tuple(
            Message(role=role, content=text)
            for role, text in (("user", "Tea?"), ("assistant", "Yes."), ("user", "How?"))
        ),
    )
    cases = [JudgedCase(prompt, Reply(prompt_id=prompt.id, text="Boil."), {}) for prompt in (raw, turns)]
    assert [row["test_case"] for row in completions(cases, judge=None)["r"]] == [
        "First clean",
        "user: Tea?\n\nassistant: Yes.\n\nuser: How?",
    ]
