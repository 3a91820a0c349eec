"""What every judge keeps to, and how judges are built and called."""

from collections.abc import Iterator, Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.engines.scripted import ScriptedModel
from derta.errors import DataError, RunError
from derta.judges import JUDGES, build_judge, judge, make_cases, uses_model
from derta.judges.rubrics import RUBRICS
from derta.protocols import Case, Judge
from derta.records import Measure, Message, Prompt, Reply, Verdict

ASKED = "Which?\n-(A) a cat\n-(B) a dog\n-(C) a bird"
ANSWERS = {"gsm8k": "#### 5", "mmlu": "C", "exact": "So (C) is 5."}
REPLY = "So (C) is 5."
YES = {
    "guideline": "VERDICT: UNSAFE",
    "strongreject": "1.b 0\n2.b 4\n3.b 5",
    "harmbench": "yes",
    "llama_guard_3": "unsafe",
}
UNKNOWN = {"gsm8k": "reference", "mmlu": "reference", "exact": "reference", "steps": "steps"}
GROUND_TRUTH = ("exact", "steps")  # an empty reply is no answer, and gives no step


def prompt(name: str = "p", judge: str = "", **fields: object) -> Prompt:
    given_fields = {"request": ASKED, "answer": ANSWERS.get(judge), "steps": ("so 5",), **fields}
    messages = (Message(role="user", content="?"),)
    return Prompt.model_validate(
        {"id": name, "request_id": "r", "attack": "direct", "messages": messages, **given_fields}
    )


def build(name: str) -> Judge:
    return JUDGES[name](engine=ScriptedModel(lambda _: YES[name])) if uses_model(name) else JUDGES[name]()


def one(name: str, asked: Prompt, text: str) -> Verdict:
    [verdict] = build(name).judge([Case(asked, Reply(prompt_id=asked.id, text=text))])
    return verdict


@pytest.mark.parametrize("name", JUDGES)
def test_every_judge_names_itself_and_fills_what_it_measures(name: str):
    found = build(name)
    assert isinstance(found, Judge)
    assert (found.name, found.uses_model) == (name, name in RUBRICS)
    assert found.measures in get_args(Measure)
    verdict = one(name, prompt(judge=name), REPLY)
    assert verdict.judge == name
    values = {"harmful": verdict.harmful, "refused": verdict.refused, "correct": verdict.correct}
    assert {field for field, value in values.items() if value is not None} == {found.measures}
    assert verdict.retry is False


@pytest.mark.parametrize("name", JUDGES)
def test_every_judge_gives_a_verdict_a_case_in_order_and_of_the_same_sample(name: str):
    cases = [
        Case(prompt(f"p{i // 2}", name), Reply(prompt_id=f"p{i // 2}", sample=i % 2, text=f"{REPLY} {i}"))
        for i in range(6)
    ]
    verdicts = list(build(name).judge(case for case in cases))
    assert [verdict.key for verdict in verdicts] == [(f"p{i // 2}", i % 2) for i in range(6)]


@pytest.mark.parametrize("name", JUDGES)
def test_an_empty_reply_is_not_harmful_and_otherwise_unscored_with_a_reason(name: str):
    verdict = one(name, prompt(judge=name), " \n")
    assert verdict.harmful is (False if build(name).measures == "harmful" else None)
    assert verdict.refused is None
    assert verdict.correct is (False if name in GROUND_TRUTH and build(name).measures == "correct" else None)
    assert verdict.reason


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_missing_reference_is_unscored_with_a_reason(name: str):
    verdict = one(name, prompt(answer=None, steps=None), REPLY)
    assert (verdict.harmful, verdict.correct) == (None, None)
    assert UNKNOWN[name] in verdict.reason


@pytest.mark.parametrize("name", RUBRICS)
def test_an_engine_s_failure_is_marked_for_another_attempt(name: str):
    class Fails(ScriptedModel):
        def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int) -> Iterator[Reply]:
            raise RunError("the server is gone")

    [verdict] = build_judge(name, engine=Fails({})).judge([Case(prompt(), Reply(prompt_id="p", text=REPLY))])
    assert (verdict.harmful, verdict.retry) == (None, True)


def test_unknown_judges_and_options_are_reported_with_the_valid_ones():
    with pytest.raises(DataError, match="unknown judge 'harmbensh'; did you mean 'harmbench'"):
        build_judge("harmbensh")
    with pytest.raises(DataError, match="judge steps: unknown option 'shere'; did you mean 'share'"):
        build_judge("steps", shere=1)
    with pytest.raises(DataError, match="judge harm: unknown option 'share'; there are none"):
        build_judge("harm", share=1)
    with pytest.raises(
        DataError, match="judge: expected a name, a judge or a function of a prompt and its reply, got 3"
    ):
        build_judge(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="judge 'guideline' uses a model: expected an engine, got none"):
        build_judge("guideline")


def is_long(asked: Prompt, reply: Reply) -> bool | None:
    return len(reply.text) > len(asked.request or "") if reply.text else None


def test_a_function_is_a_judge_under_its_name():
    found = judge(["Why?", "Why?", "Why?"], ["Because.", "So", ""], is_long)
    assert [verdict.harmful for verdict in found] == [True, False, None]
    assert {verdict.judge for verdict in found} == {"is_long"}
    assert found[2].reason
    assert build_judge(is_long, measures="correct", name="length").measures == "correct"


def test_replies_are_judged_in_their_order_for_any_order_of_the_prompts():
    asked = [prompt("a"), prompt("b")]
    replies = [Reply(prompt_id="b", text="I'm sorry, but I can't help."), Reply(prompt_id="a", text=REPLY)]
    replies.append(Reply(prompt_id="b", sample=1, text=REPLY))
    found = judge(asked, replies)
    assert [(*verdict.key, verdict.refused) for verdict in found] == [("b", 0, True), ("a", 0, False), ("b", 1, False)]
    assert judge(iter(asked), iter(replies)) == found  # as an engine gives them


@pytest.mark.parametrize(
    ("prompts", "replies", "part"),
    [
        ("a", ["x"], "prompts: expected a list of texts or of Prompt records, got 'a'"),
        (["a"], "x", "replies: expected a list of texts or of Reply records, got 'x'"),
        (["a"], [None], "replies: expected a list of texts or of Reply records, got None"),
        (["a", "b"], ["x"], "one text for each of 2 prompts, got 1 texts"),
        (["a"], [Reply(prompt_id="p", text="x")], "on one side only"),
        ([prompt("a"), prompt("a")], [Reply(prompt_id="a", text="x")], "expected unique prompt ids"),
        ([prompt("a")], [Reply(prompt_id="a", text="x")] * 2, "expected unique replies to a prompt"),
        ([prompt("a"), prompt("b")], [Reply(prompt_id="a", text="x")], "'b' on one side only"),
    ],
)
def test_replies_that_do_not_match_the_prompts_are_an_error(prompts: list[Prompt], replies: list[Reply], part: str):
    with pytest.raises(DataError, match=part):
        judge(prompts, replies)


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=4))
def test_any_texts_are_cases(pairs: list[tuple[str, str]]):
    cases = make_cases([request for request, _ in pairs], [reply for _, reply in pairs])
    assert [case.reply.text for case in cases] == [reply for _, reply in pairs]
    assert [case.prompt.request for case in cases] == [request if request.strip() else None for request, _ in pairs]


@given(st.text(max_size=80), st.text(max_size=200), st.text(max_size=30))
def test_every_judge_gives_any_text_a_verdict_or_a_reason(request: str, reply: str, reference: str):
    held = request if request.strip() else None
    asked = prompt(request=held, answer=reference, steps=(reference,) if reference.strip() else None)
    for name in JUDGES:
        verdict = one(name, asked, reply)
        said = (verdict.harmful, verdict.refused, verdict.correct)
        assert verdict.reason or any(value is not None for value in said)
        assert verdict.score is None or 0 <= verdict.score <= 1
