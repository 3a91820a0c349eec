"""A search that is killed in a step resumes without a second call of target, attacker or judge, to the same result."""

import json

import pytest

from derta.attacks import autodan, escalation, multi_turn, pair, read_attempts
from derta.attacks.journal import CallJournal
from derta.engines.scripted import ScriptedModel
from derta.records import Request

REQUESTS = [Request(id=name, text=f"How do I paint a {name}?") for name in ("fence", "boat", "gate")]


class KilledError(BaseException):
    """Stand-in for a kill: no handler of errors may catch it."""


class Calls:
    """Scripted target, attacker and judge that count their calls, and are killed before call number `last`."""

    def __init__(self, last=None):
        self.count = 0
        self.last = last
        self.target = Engine(self, lambda prompt: f"I say {len(prompt.messages[-1].content)}.")
        self.attacker = Engine(self, self._draft)

    def __call__(self):
        if self.count == self.last:
            raise KilledError
        self.count += 1

    def judge(self, prompt, reply):
        self()
        return prompt.request_id == "boat" and "say 31" in reply.text

    @staticmethod
    def _draft(prompt):
        if prompt.id.endswith("2.1"):
            return "no draft"
        return json.dumps({"improvement": "x", "prompt": f"Well, {prompt.request_id} {len(prompt.messages) % 7}?"})


class Engine:
    """An engine of which each reply, and each batch of log-likelihoods, is a call."""

    def __init__(self, calls, reply):
        self.calls = calls
        self.model = ScriptedModel(reply, log_prob=lambda prompt, before, word: -(len(prompt.id) % 5) - 0.1)

    def generate(self, prompts, *, max_new_tokens):
        for prompt in prompts:
            self.calls()
            yield from self.model.generate([prompt], max_new_tokens=max_new_tokens)

    def log_likelihood(self, prompts, continuations):
        self.calls()
        return self.model.log_likelihood(prompts, continuations)

    def refusal_probability(self, prompts, continuations):
        return self.model.refusal_probability(prompts, continuations)


@pytest.fixture
def attacks(tmp_path):
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("Dear gardener. Please tell: [INSERT PROMPT HERE]\n=====\nHello. [INSERT PROMPT HERE] Thanks.")
    return {
        "pair": pair(streams=2, depth=2, requests_at_once=2),
        "escalation": escalation(depth=3, requests_at_once=2),
        "multi_turn": multi_turn(turns=(1, 2)),
        "autodan": autodan(seeds=str(seeds), population=4, steps=4, sentence_steps=1, mutation=1.0),
    }


def search(attack, calls, state):
    helped = {} if attack.name == "multi_turn" else {"attacker": calls.attacker, "judge": calls.judge}
    return list(attack.search(REQUESTS, target=calls.target, state=state, clock=lambda: 0.0, **helped))


@pytest.mark.parametrize("name", ["pair", "escalation", "multi_turn", "autodan"])
def test_a_search_killed_before_any_call_resumes_without_a_second_call(attacks, tmp_path, name):
    attack, undisturbed = attacks[name], Calls()
    expected = search(attack, undisturbed, tmp_path / "whole.jsonl")
    assert undisturbed.count > 5
    for last in range(undisturbed.count):
        state = tmp_path / f"{last}.jsonl"
        killed = Calls(last)
        with pytest.raises(KilledError):
            search(attack, killed, state)
        resumed = Calls()
        assert search(attack, resumed, state) == expected
        assert killed.count + resumed.count == undisturbed.count, last
        assert read_attempts(state) == read_attempts(tmp_path / "whole.jsonl")
        assert not list(tmp_path.glob("*.calls"))


def test_a_search_killed_many_times_pays_each_call_once(attacks, tmp_path):
    undisturbed, paid = Calls(), 0
    expected = search(attacks["pair"], undisturbed, tmp_path / "whole.jsonl")
    for _ in range(undisturbed.count):
        calls = Calls(2)
        try:
            prompts = search(attacks["pair"], calls, tmp_path / "state.jsonl")
        except KilledError:
            paid += calls.count
        else:
            paid += calls.count
            break
    assert prompts == expected
    assert paid == undisturbed.count


def test_a_kill_between_the_log_and_the_journal_does_no_harm(attacks, tmp_path, monkeypatch):
    undisturbed, killed, resumed = Calls(), Calls(), Calls()
    expected = search(attacks["escalation"], undisturbed, tmp_path / "whole.jsonl")

    def kill(_):
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(CallJournal, "clear", kill)
        with pytest.raises(KilledError):
            search(attacks["escalation"], killed, tmp_path / "state.jsonl")
    assert (tmp_path / "state.jsonl.calls").exists()
    assert search(attacks["escalation"], resumed, tmp_path / "state.jsonl") == expected
    assert killed.count + resumed.count == undisturbed.count
