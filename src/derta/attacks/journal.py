"""Journal of the calls of a search's current step, so that a stopped search resumes without a second call for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from derta.errors import RunError
from derta.files import Appender, drop_torn_line, read_records
from derta.protocols import Case, Engine
from derta.records import Prompt, Record, Reply, ReplyKey, Text, Verdict, short_hash
from derta.sampling import GREEDY, Sampling

CHUNK = 64
"""Maximum number of prompts of a call for log-likelihoods, which an engine returns together."""


class Call(Record):
    """Output of one call: a reply, log-probabilities (None is -inf), or a verdict. `key` is a hash of its inputs."""

    search: Text
    key: Text
    reply: Reply | None = None
    log_probs: tuple[float | None, ...] | None = None
    verdict: Verdict | None = None


@dataclass(slots=True)
class CallJournal:
    """Calls by key, in a file; `clear` deletes them when the attempts that they belong to are in the log of attempts.

    The same call gets the same output, whether the search was stopped in between or not.
    """

    search: str
    path: Path
    calls: dict[str, Call] = field(default_factory=dict[str, Call])

    def get(self, key: str) -> Call | None:
        """Return the recorded call, or None."""
        return self.calls.get(key)

    def record(self, calls: Iterator[Call]) -> Iterator[Call]:
        """Yield calls, each after it is written."""
        with Appender(self.path) as file:
            for call in calls:
                file.add(call)
                self.calls[call.key] = call
                yield call

    def clear(self) -> None:
        """Delete the calls and their file."""
        self.calls.clear()
        self.path.unlink(missing_ok=True)


def open_journal(path: Path, *, search: str) -> CallJournal:
    """Load the journal of a stopped search, or return an empty one.

    Raises:
        RunError: the file belongs to another search.
        DataError: the file contains something else.
    """
    drop_torn_line(path)
    journal = CallJournal(search, path)
    for call in read_records(path, Call) if path.exists() else ():
        if call.search != search:
            raise RunError(
                f"{path}: expected the calls of this search, got those of another one; choose another file, or delete "
                "this one"
            )
        journal.calls[call.key] = call
    return journal


@dataclass(frozen=True, slots=True)
class JournaledEngine:
    """Engine of a search (`role`: target or attacker) whose outputs are recorded."""

    engine: Engine
    journal: CallJournal
    role: str

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> Iterator[Reply]:
        """Yield replies, as defined by `Engine`; recorded ones first.

        A prompt of which a sample is not recorded is sampled again, with the same seeds.
        """
        setting = str(max_new_tokens)
        drawn = {} if sampling.is_greedy else {"sampling": sampling}
        if drawn:
            setting = f"{setting} {sampling.model_dump_json()}"
        keys = {
            (prompt.id, number): self._key("generate", prompt, f"{setting} {number}" if drawn else setting)
            for prompt in prompts
            for number in sampling.numbers
        }
        unrecorded = {name for (name, _), key in keys.items() if self.journal.get(key) is None}
        recorded = [
            call.reply
            for (name, _), key in keys.items()
            if name not in unrecorded and (call := self.journal.get(key)) and call.reply
        ]
        pending = [prompt for prompt in prompts if prompt.id in unrecorded]
        if not pending:
            return iter(recorded)
        return self._replies(recorded, self.engine.generate(pending, max_new_tokens=max_new_tokens, **drawn), keys)

    def _replies(
        self, recorded: Sequence[Reply], replies: Iterator[Reply], keys: dict[ReplyKey, str]
    ) -> Iterator[Reply]:
        yield from recorded
        calls = (Call(search=self.journal.search, key=keys[reply.key], reply=reply) for reply in replies)
        for call in self.journal.record(calls):
            if call.reply is not None:
                yield call.reply

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return log-likelihoods, as defined by `Engine`; they are recorded by `CHUNK` prompts."""
        keys = [self._key("log_likelihood", *pair) for pair in zip(prompts, continuations, strict=True)]
        pending = [i for i, key in enumerate(keys) if self.journal.get(key) is None]
        for start in range(0, len(pending), CHUNK):
            chunk = pending[start : start + CHUNK]
            rows = self.engine.log_likelihood([prompts[i] for i in chunk], [continuations[i] for i in chunk])
            log_probs = [tuple(None if value == -inf else value for value in row) for row in rows]
            calls = (
                Call(search=self.journal.search, key=keys[i], log_probs=row)
                for i, row in zip(chunk, log_probs, strict=True)
            )
            for _ in self.journal.record(calls):
                pass
        recorded = [self.journal.calls[key].log_probs or () for key in keys]
        return [[-inf if value is None else value for value in row] for row in recorded]

    def refusal_probability(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return refusal probabilities, as defined by `Engine`; no search uses them, so they are not recorded."""
        return self.engine.refusal_probability(prompts, continuations)

    def _key(self, output: str, prompt: Prompt, setting: str) -> str:
        return short_hash(self.role, output, prompt.model_dump_json(), setting)


def journaled_judge(
    judge: Callable[[Sequence[Case]], Iterator[Verdict]], journal: CallJournal
) -> Callable[[Sequence[Case]], list[Verdict]]:
    """Return a judge whose verdicts are recorded, each as it is yielded, except those that are worth a retry."""

    def judge_cases(cases: Sequence[Case]) -> list[Verdict]:
        keys = [short_hash("judge", prompt.model_dump_json(), reply.model_dump_json()) for prompt, reply in cases]
        pending = [i for i, key in enumerate(keys) if journal.get(key) is None]
        retried: dict[str, Verdict] = {}

        def calls() -> Iterator[Call]:
            for i, verdict in zip(pending, judge([cases[i] for i in pending]), strict=True):
                if verdict.retry:
                    retried[keys[i]] = verdict
                else:
                    yield Call(search=journal.search, key=keys[i], verdict=verdict)

        for _ in journal.record(calls()) if pending else ():
            pass
        verdicts = {key: call.verdict for key in keys if (call := journal.get(key)) and call.verdict} | retried
        return [verdicts[key] for key in keys]

    return judge_cases
