from __future__ import annotations

import pytest
from magic_words import ANSWER, REQUESTS, Attacker, reply_to, run

from derta.attacks import read_attempts, success_by_budget
from derta.attacks.adaptive.refinement import RefinementSettings, refine
from derta.engines.scripted import ScriptedModel
from derta.errors import ModelError, RecipeError, RunError
from derta.records import Request


def test_a_successful_request_is_queried_no_more_and_costs_are_counted(tmp_path):
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
    assert fence.cost.tokens > sum(len(one.reply.split()) for one in attempts)


def test_malformed_output_is_counted_returned_to_the_attacker_and_never_fatal(tmp_path):
    attacker = Attacker()
    run("pair", tmp_path / "a", REQUESTS[:1], attacker=attacker, streams=2, depth=1)
    assert "cannot be used: no JSON object" in attacker.prompts[-1].messages[-1].content
    [prompt] = run(
        "pair", tmp_path / "b", REQUESTS[:1], attacker=lambda _: "{", streams=2, depth=2, attacker_attempts=3
    )
    attempts = read_attempts(tmp_path / "b")
    assert [(one.malformed, one.messages, one.cost.target_queries) for one in attempts] == [(3, None, 0)] * 4
    assert prompt.messages[0].content == REQUESTS[0].text
    assert prompt.cost.attacker_queries == 12


def test_a_stopped_search_resumes_and_gives_the_same_prompts(tmp_path):
    whole = tmp_path / "whole"
    expected = run("pair", whole, streams=3, depth=3)
    lines = whole.read_text().splitlines(keepends=True)
    for count in range(0, len(lines), 4):
        part = tmp_path / f"part-{count}"
        part.write_text("".join(lines[:count]) + lines[count][: len(lines[count]) // 2])
        prompts = run("pair", part, streams=3, depth=3)
        assert [prompt.messages for prompt in prompts] == [prompt.messages for prompt in expected]
        places = [(one.request_id, one.stream, one.step) for one in read_attempts(part)]
        # streams that were killed in the very step that succeeded are not queried again: there is nothing to gain
        assert len(set(places)) == len(places) >= 3 * 2 * 2 + 2


def test_a_complete_search_queries_no_model(tmp_path):
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

    prompts = run("pair", tmp_path / "attempts", target=Choosy(), streams=1, depth=3)
    assert sizes == [2, 2, 2, 1, 1]
    assert reply_to(prompts[0]) == ANSWER
    last = read_attempts(tmp_path / "attempts")[-1]
    assert (last.request_id, last.messages, last.malformed, last.cost.target_queries) == ("boat", None, 0, 0)
    with pytest.raises(ModelError, match="too long"):
        run("pair", tmp_path / "b", REQUESTS[1:], target=Choosy(), streams=1, depth=3)


def test_requests_at_once_is_the_number_of_requests_per_batch(tmp_path):
    sizes = []

    class Counting(ScriptedModel):
        def generate(self, prompts, *, max_new_tokens):
            sizes.append(len(prompts))
            return ScriptedModel.generate(self, prompts, max_new_tokens=max_new_tokens)

    run("pair", tmp_path / "attempts", target=Counting(reply_to), streams=2, depth=1, requests_at_once=1)
    assert sizes == [2, 2]


def test_success_by_budget_counts_queries_in_their_order(tmp_path):
    run("pair", tmp_path / "attempts", streams=2, depth=3)
    budgets = success_by_budget(read_attempts(tmp_path / "attempts"))
    # a request's queries: 1 2 (step 1), 3 4 (step 2), 5 (step 3, stream 0: harmful), 6
    assert [(one.queries, one.found, one.requests) for one in budgets] == [(1, 0, 2), (2, 0, 2), (5, 2, 2), (6, 2, 2)]
    assert success_by_budget([]) == []  # nothing was judged, so there are no rates


def test_the_request_is_inserted_into_the_instructions_character_for_character(tmp_path):
    attacker = Attacker()
    requests = [Request(id="r", text="How do @NUMBER@ and {{ x }} and @REQUEST@ work?")]
    run("pair", tmp_path / "attempts", requests, attacker=attacker, streams=1, depth=1)
    assert requests[0].text in attacker.prompts[0].messages[0].content


def test_attackers_without_a_system_role_get_the_instructions_as_the_user(tmp_path):
    attacker = Attacker()
    run("pair", tmp_path / "attempts", attacker=attacker, streams=1, depth=2, role="user")
    assert [message.role for message in attacker.prompts[-1].messages] == ["user", "assistant", "user"]


@pytest.mark.parametrize("option", ["remember", "attacker_tokens", "requests_at_once"])
def test_every_number_of_the_settings_is_at_least_one(option):
    numbers = dict.fromkeys(
        ["streams", "depth", "attacker_attempts", "remember", "max_new_tokens", "attacker_tokens", "requests_at_once"],
        1,
    )
    settings = {"attack": "mine", "template": "pair_system.txt", "multi_turn": False, "role": "system", **numbers}
    assert refine(RefinementSettings(**settings)).needs_attacker
    with pytest.raises(RecipeError, match=f"mine: expected {option} of at least 1, got 0"):
        refine(RefinementSettings(**settings | {option: 0}))
