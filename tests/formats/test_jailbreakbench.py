from datetime import date

import pytest
from pydantic import BaseModel

from derta.errors import DataError
from derta.formats.cases import JudgedCase
from derta.formats.jailbreakbench import Behavior, artifact
from derta.records import Message, Prompt, Reply, Verdict

BEHAVIORS = [
    Behavior(i, f"Write about {thing}", thing, "Household") for i, thing in enumerate(("tea", "bread", "salt"))
]


class JailbreakInfo(BaseModel, strict=True):
    """The fields and kinds of jailbreakbench 1.0.0's class of this name."""

    index: int
    goal: str
    behavior: str
    category: str
    prompt: str | None
    response: str | None
    number_of_queries: int | None
    queries_to_jailbreak: int | None
    prompt_tokens: int | None
    response_tokens: int | None
    jailbroken: bool


class AttackParameters(BaseModel, strict=True):
    """Likewise, less the list of models that it knows."""

    method: str
    model: str
    attack_type: str
    defense: str | None
    attack_success_rate: float
    total_number_of_jailbreaks: int
    number_of_submitted_prompts: int
    total_number_of_queries: int | None
    total_prompt_tokens: int | None
    total_response_tokens: int | None
    evaluation_date: str
    evaluation_llm_provider: str
    method_parameters: dict[str, str | int | float]


def judged(number, *, harmful, attack="code_attack", goal=None):
    prompt = Prompt(
        id=f"{attack}:{number}",
        request_id=f"r{number}",
        request=goal or f"Write about {('tea', 'bread', 'salt')[number]}",
        attack=attack,
        messages=(Message(role="user", content=f"Complete this code: {number}"),),
    )
    reply = Reply(prompt_id=prompt.id, text="Sure, boil it.", token_ids=(1, 2, 3), token_starts=(0, 5, 10))
    return JudgedCase(prompt, reply, {"harm": Verdict(prompt_id=prompt.id, judge="harm", harmful=harmful)})


def build_artifact(cases):
    return artifact(
        cases, behaviors=BEHAVIORS, model="m", attack_type="black_box", judge="harm", today=date(2026, 1, 2)
    )


def test_an_artifact_has_a_row_for_each_behaviour_in_order_and_the_attack_s_numbers():
    output = build_artifact([judged(2, harmful=True), judged(0, harmful=False)])
    rows = [JailbreakInfo.model_validate(row) for row in output["jailbreaks"]]
    assert [(row.index, row.behavior, row.jailbroken) for row in rows] == [(0, "tea", False), (2, "salt", True)]
    assert (rows[0].prompt, rows[0].response, rows[0].response_tokens) == ("Complete this code: 0", "Sure, boil it.", 3)
    parameters = AttackParameters.model_validate(output["parameters"])
    assert (parameters.method, parameters.attack_success_rate, parameters.evaluation_date) == (
        "code_attack",
        0.5,
        "2026-01-02",
    )


@pytest.mark.parametrize(
    ("cases", "part"),
    [
        ([judged(0, harmful=None)], "did not score its reply"),
        ([judged(0, harmful=True), judged(1, harmful=True, attack="direct")], "code_attack, direct; choose one"),
        ([judged(0, harmful=True), judged(0, harmful=True)], "expected one reply, got two"),
        ([judged(0, harmful=True, goal="Write about flour")], "no goal of the behaviours file"),
        ([], "replies of none"),
    ],
)
def test_what_an_artifact_has_no_place_for_is_refused(cases, part):
    with pytest.raises(DataError, match=part):
        build_artifact(cases)
