"""A target whose best prompt is known: it tells one magic word at a time, and gives way to a prompt with both."""

from __future__ import annotations

import json
import re

import pytest

from derta.attacks import build_attack, read_attempts, success_by_budget
from derta.attacks.adaptive.drafts import Draft, MalformedOutput, parse_draft
from derta.engines.scripted import ScriptedModel
from derta.errors import ModelError, RecipeError, RunError
from derta.records import Request

ASKED = [Request(id=name, text=f"How do I paint a {name}?", category="craft") for name in ("fence", "boat")]
WORDS = ("brush", "ladder")


def reply_to(prompt):
    """What the target says to its last message: the next magic word, or, where both are said, the answer."""
    text = prompt.messages[-1].content
    missing = [word for word in WORDS if word not in text]
    return f"Sorry, only with a {missing[0]} ." if missing else "Clean the wood, paint it twice."


def judge(prompt, reply):
    return "paint it" in reply.text


class Attacker:
    """Collects the words it has read in the target's replies; every odd stream writes nonsense at first."""

    def __init__(self):
        self.seen = []

    def __call__(self, prompt):
        self.seen.append(prompt)
        talk = [message.content for message in prompt.messages]
        number = int(re.search(r"You are writer (\d+)", talk[0])[1])
        if number % 2 == 0 and "cannot be used" not in talk[-1]:
            return "I would rather talk about the weather {"
        words = [word for word in WORDS if any(f"with a {word}" in text for text in talk)]
        return json.dumps({"improvement": "more words", "prompt": " ".join(["Please", *words])})


def run(name, state, asked=ASKED, *, target=reply_to, attacker=None, key="", judge=judge, **options):
    ticks = iter(range(10_000))
    found = build_attack(name, options).search(
        asked,
        target=target if hasattr(target, "generate") else ScriptedModel(target),
        attacker=ScriptedModel(attacker or Attacker()),
        judge=judge,
        state=state,
        key=key,
        clock=lambda: float(next(ticks)),
    )
    return list(found)


@pytest.mark.parametrize("name", ["pair", "escalation"])
def test_refinement_reaches_the_prompt_that_needs_two_replies_to_be_read(name, tmp_path):
    found = run(name, tmp_path / "attempts", streams=2, depth=3)
    assert [prompt.id for prompt in found] == [f"{name}:fence", f"{name}:boat"]
    assert [reply_to(prompt) for prompt in found] == ["Clean the wood, paint it twice."] * 2
    assert [(prompt.request, prompt.category) for prompt in found] == [(one.text, "craft") for one in ASKED]


def test_with_one_step_too_few_the_best_prompt_still_fails(tmp_path):
    found = run("pair", tmp_path / "attempts", streams=2, depth=2)
    assert all(reply_to(prompt).startswith("Sorry") for prompt in found)


def test_pair_begins_anew_at_each_step_and_escalation_goes_on_talking(tmp_path):
    [anew, _] = run("pair", tmp_path / "a", streams=1, depth=3)
    [talk, _] = run("escalation", tmp_path / "b", streams=1, depth=3)
    assert [message.role for message in anew.messages] == ["user"]
    assert [message.role for message in talk.messages] == ["user", "assistant"] * 2 + ["user"]
    assert talk.messages[1].content == "Sorry, only with a brush ."


def test_a_request_that_is_won_is_asked_no_more_and_costs_are_counted(tmp_path):
    state = tmp_path / "attempts"
    [fence, _] = run("pair", state, streams=2, depth=9)
    attempts = [one for one in read_attempts(state) if one.request_id == "fence"]
    assert [(one.stream, one.step, one.harmful, one.malformed) for one in attempts] == [
        (0, 1, False, 0),
        (1, 1, False, 1),
        (0, 2, False, 0),
        (1, 2, False, 1),
        (0, 3, True, 0),
        (1, 3, True, 1),
    ]
    assert fence.cost.target_queries == fence.cost.judge_queries == 6
    assert fence.cost.attacker_queries == 6 + 3
    assert fence.cost.seconds == pytest.approx(3 * 2 / 4)  # a tick a step, shared by four streams of two requests
    answers = [reply_to_words(one.reply) for one in attempts]
    assert fence.cost.tokens > sum(answers)


def reply_to_words(text):
    return len(text.split())


def test_malformed_output_is_counted_shown_back_and_never_fatal(tmp_path):
    state, attacker = tmp_path / "attempts", Attacker()
    attacker_prompts = attacker.seen
    run("pair", state, ASKED[:1], attacker=attacker, streams=2, depth=1)
    assert "cannot be used: no JSON object" in attacker_prompts[-1].messages[-1].content
    found = run("pair", tmp_path / "b", ASKED[:1], attacker=lambda _: "{", streams=2, depth=2, attacker_attempts=3)
    attempts = read_attempts(tmp_path / "b")
    assert [(one.malformed, one.messages, one.cost.target_queries) for one in attempts] == [(3, None, 0)] * 4
    assert found[0].messages[0].content == ASKED[0].text
    assert found[0].cost.attacker_queries == 12


def test_a_stopped_search_goes_on_and_finds_the_same(tmp_path):
    whole = tmp_path / "whole"
    expected = run("pair", whole, streams=3, depth=3)
    lines = whole.read_text().splitlines(keepends=True)
    for kept in range(0, len(lines), 4):
        part = tmp_path / f"part-{kept}"
        part.write_text("".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])
        found = run("pair", part, streams=3, depth=3)
        assert [prompt.messages for prompt in found] == [prompt.messages for prompt in expected]
        attempts = read_attempts(part)
        places = [(one.request_id, one.stream, one.step) for one in attempts]
        # streams that a kill cut off in the very step that won are not asked again: nothing is to be gained
        assert len(set(places)) == len(places) >= 3 * 2 * 2 + 2


def test_a_finished_search_asks_nobody(tmp_path):
    run("pair", tmp_path / "attempts", streams=1, depth=3)

    def never(_):
        raise AssertionError

    again = run("pair", tmp_path / "attempts", target=never, attacker=never, streams=1, depth=3)
    assert len(again) == 2


def test_attempts_of_another_search_are_refused(tmp_path):
    run("pair", tmp_path / "attempts", streams=1, depth=1)
    with pytest.raises(RunError, match="expected the attempts of this search"):
        run("pair", tmp_path / "attempts", key="another", streams=1, depth=1)


def test_streams_of_all_requests_are_one_batch_and_a_prompt_too_long_costs_only_itself(tmp_path):
    sizes = []

    class Choosy:
        def generate(self, prompts, *, max_new_tokens):
            sizes.append(len(prompts))
            if any("ladder" in prompt.messages[-1].content for prompt in prompts if "boat" in prompt.request):
                raise ModelError("too long")
            return ScriptedModel(reply_to).generate(prompts, max_new_tokens=max_new_tokens)

    found = run("pair", tmp_path / "attempts", target=Choosy(), streams=1, depth=3)
    assert sizes == [2, 2, 2, 1, 1]
    assert reply_to(found[0]) == "Clean the wood, paint it twice."
    last = read_attempts(tmp_path / "attempts")[-1]
    assert (last.request_id, last.messages, last.malformed, last.cost.target_queries) == ("boat", None, 0, 0)
    with pytest.raises(ModelError, match="too long"):
        run("pair", tmp_path / "b", ASKED[1:], target=Choosy(), streams=1, depth=3)


def test_success_by_budget_counts_queries_in_their_order(tmp_path):
    run("pair", tmp_path / "attempts", streams=2, depth=3)
    budgets = success_by_budget(read_attempts(tmp_path / "attempts"))
    # a request's queries: 1 2 (step 1), 3 4 (step 2), 5 (step 3, stream 0: harmful), 6
    assert [(one.queries, one.found, one.requests) for one in budgets] == [(1, 0, 2), (2, 0, 2), (5, 2, 2), (6, 2, 2)]
    assert success_by_budget([]) == []  # nothing was judged, so nothing is told


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('{"prompt": "a", "improvement": "b"}', Draft("a", "b")),
        ('```json\n{"improvement": "b",\n"prompt": "two\nlines"}\n```', Draft("two\nlines", "b")),
        ('{"thought": 1} {"prompt": "second"}', Draft("second", "")),
        ('{"outer": {"prompt": "inner"}}', Draft("inner", "")),
    ],
)
def test_a_draft_is_found_whatever_stands_around_it(text, read):
    assert parse_draft(text) == read


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"prompt": 3}', '{"prompt": "\\ud83d"}', '{"a":' * 3000, "{" * 99])
def test_what_is_no_draft_is_malformed_and_nothing_is_raised(text):
    assert isinstance(parse_draft(text), MalformedOutput)


@pytest.mark.parametrize("name", ["pair", "escalation"])
def test_a_search_needs_an_attacker_and_a_judge(name):
    model = ScriptedModel(reply_to)
    for helpers in ({"attacker": model}, {"judge": judge}):
        with pytest.raises(RecipeError, match="expected an attacker and a judge"):
            build_attack(name).search(ASKED, target=model, **helpers)


@pytest.mark.parametrize("name", ["pair", "escalation"])
@pytest.mark.parametrize("option", ["streams", "depth", "attacker_attempts", "max_new_tokens"])
def test_numbers_below_one_are_refused(name, option):
    with pytest.raises(RecipeError, match=f"expected {option} of at least 1, got 0"):
        build_attack(name, {option: 0})


def test_the_request_is_put_into_the_instructions_character_for_character(tmp_path):
    attacker = Attacker()
    asked = [Request(id="r", text="How do @NUMBER@ and {{ x }} and @REQUEST@ work?")]
    run("pair", tmp_path / "attempts", asked, attacker=attacker, streams=1, depth=1)
    assert asked[0].text in attacker.seen[0].messages[0].content


def test_attackers_without_a_system_message_are_told_by_the_user(tmp_path):
    attacker = Attacker()
    run("pair", tmp_path / "attempts", attacker=attacker, streams=1, depth=2, role="user")
    assert [m.role for m in attacker.seen[-1].messages] == ["user", "assistant", "user"]
