from math import inf

import pytest

from derta.attacks import journal as journals
from derta.attacks.journal import Call, JournaledEngine, journaled_judge, open_journal
from derta.engines.scripted import ScriptedModel
from derta.errors import ModelError, RunError
from derta.protocols import Case
from derta.records import Message, Prompt, Reply, Verdict


def ask(name, text=None):
    messages = (Message(role="user", content=text or name),)
    return Prompt(id=name, request_id="r", attack="pair", messages=messages)


@pytest.fixture
def reopen(tmp_path):
    return lambda search="one": open_journal(tmp_path / "calls.jsonl", search=search)


class Counting:
    """Count the prompts that reach the engine."""

    def __init__(self):
        self.prompts = []
        self.model = ScriptedModel(lambda prompt: f"It is {prompt.messages[-1].content}.", log_prob=self.log_prob)

    @staticmethod
    def log_prob(prompt, before, word):
        return -inf if prompt.id == "c" else -len(prompt.id) / 3

    def generate(self, prompts, *, max_new_tokens):
        for reply in self.model.generate(prompts, max_new_tokens=max_new_tokens):
            self.prompts.append(reply.prompt_id)
            yield reply

    def log_likelihood(self, prompts, continuations):
        self.prompts += [prompt.id for prompt in prompts]
        return self.model.log_likelihood(prompts, continuations)

    def refusal_probability(self, prompts, continuations):
        return self.model.refusal_probability(prompts, continuations)


def test_recorded_replies_are_not_generated_again(reopen):
    engine, prompts = Counting(), [ask(name) for name in "abc"]
    expected = {reply.prompt_id: reply for reply in engine.model.generate(prompts, max_new_tokens=5)}
    stream = JournaledEngine(engine, reopen(), "target").generate(prompts, max_new_tokens=5)
    assert [next(stream).prompt_id, next(stream).prompt_id] == ["a", "b"]  # then killed
    resumed = JournaledEngine(engine, reopen(), "target").generate(prompts, max_new_tokens=5)
    assert {reply.prompt_id: reply for reply in resumed} == expected
    assert engine.prompts == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("role", "prompt", "max_new_tokens"),
    [("attacker", ask("a"), 5), ("target", ask("a", "other"), 5), ("target", ask("a"), 6), ("target", ask("d"), 5)],
)
def test_another_input_is_another_call(reopen, role, prompt, max_new_tokens):
    engine = Counting()
    list(JournaledEngine(engine, reopen(), "target").generate([ask("a")], max_new_tokens=5))
    list(JournaledEngine(engine, reopen(), role).generate([prompt], max_new_tokens=max_new_tokens))
    assert len(engine.prompts) == 2


def test_recorded_log_likelihoods_are_exact_and_not_computed_again(reopen, monkeypatch):
    monkeypatch.setattr(journals, "CHUNK", 2)
    engine, prompts = Counting(), [ask(name) for name in ("a", "bb", "c")]
    expected = engine.model.log_likelihood(prompts, ["yes sir"] * 3)
    assert -inf in expected[2]
    calls = []

    def fail(prompts, continuations):
        calls.append(len(prompts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return engine.model.log_likelihood(prompts, continuations)

    monkeypatch.setattr(engine, "log_likelihood", fail)
    with pytest.raises(KeyboardInterrupt):
        JournaledEngine(engine, reopen(), "target").log_likelihood(prompts, ["yes sir"] * 3)
    assert JournaledEngine(engine, reopen(), "target").log_likelihood(prompts, ["yes sir"] * 3) == expected
    assert calls == [2, 1, 1]


def test_the_errors_of_the_engine_are_raised_before_the_first_reply(reopen):
    class Refusing(Counting):
        def generate(self, prompts, *, max_new_tokens):
            raise ModelError("too long")

    with pytest.raises(ModelError):
        JournaledEngine(Refusing(), reopen(), "target").generate([ask("a")], max_new_tokens=5)


def test_verdicts_are_recorded_one_by_one_but_not_those_that_are_worth_a_retry(reopen):
    cases = [Case(ask(name), Reply(prompt_id=name, text=name)) for name in "abcd"]
    judged = []

    def judge(cases):
        for prompt, reply in cases:
            judged.append(prompt.id)
            if len(judged) == 4:
                raise KeyboardInterrupt
            yield Verdict(prompt_id=prompt.id, judge="j", harmful=None, retry=prompt.id == "b", reason=reply.text)

    with pytest.raises(KeyboardInterrupt):
        journaled_judge(judge, reopen())(cases)
    verdicts = journaled_judge(judge, reopen())(cases)
    assert [verdict.prompt_id for verdict in verdicts] == ["a", "b", "c", "d"]
    assert judged == ["a", "b", "c", "d", "b", "d"]


def test_the_journal_of_another_search_is_refused(reopen):
    list(reopen().record(iter([Call(search="one", key="k")])))
    with pytest.raises(RunError, match="expected the calls of this search, got those of another one"):
        reopen("two")


def test_a_torn_last_line_is_dropped_and_a_cleared_journal_has_no_file(reopen, tmp_path):
    list(reopen().record(iter([Call(search="one", key="k"), Call(search="one", key="l")])))
    path = tmp_path / "calls.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    journal = reopen()
    assert list(journal.calls) == ["k"]
    journal.clear()
    assert not path.exists()
    assert journal.get("k") is None
