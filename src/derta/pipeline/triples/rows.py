"""Records of `derta triples`: rows with the origin of their texts, dropped data without texts, and the summary."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from derta.messages import Context, is_absent
from derta.provenance import prompt_hash
from derta.records import Message, Prompt, Record, Reply, ReplyClass, Request, Text, Tools, Verdict

Stage = Literal["policy", "requests", "harmful", "safe", "counterparts", "answers"]
"""Stage that drops data: requests from a policy, all requests, harmful and safe responses, counterparts, answers."""


class Scored(Record):
    """Verdict of one judge on a text; None where the judge did not decide."""

    judge: str
    harmful: bool | None = None
    reply_class: ReplyClass | None = None
    score: float | None = None


class Origin(Record):
    """Origin of a text: the model or the templates, the prompt by id and hash, and the verdicts of judges.

    Attributes:
        source: The model as it is named in the configuration, or `templates`.
        version: Hash of the model's or the templates' files, or the model's name on a server.
        prompt: Id of the prompt in the folder's files; None for templates.
        prompt_hash: Hash of what the model read.
        sample: Number of the reply to the prompt.
        seed: Random seed of a sampled reply.
        verdicts: Verdicts of judges.
    """

    source: str
    version: str
    prompt: str | None = None
    prompt_hash: str | None = None
    sample: int = 0
    seed: int | None = None
    verdicts: tuple[Scored, ...] = ()


class TripleRow(Record):
    """A row of `triples.jsonl`: a triple, and columns from `request_id` on that `data.triples` does not read."""

    query: Text
    safe: Text
    harmful: Text
    category: str | None = None
    source: str | None = None
    messages: Context = ()
    tools: Tools = None
    request_id: str
    request_origin: Annotated[Origin | None, Field(exclude_if=is_absent)] = None
    harmful_origin: Origin
    safe_origin: Origin
    licence: str


class CounterRow(Record):
    """A row of `counter.jsonl`: an example in the format of `data.helpful`, with the id of its harmful request."""

    messages: tuple[Message, ...]
    tools: Tools = None
    source: str | None = None
    request_id: str
    request_origin: Annotated[Origin | None, Field(exclude_if=is_absent)] = None
    answer_origin: Origin
    licence: str


class Dropped(Record):
    """A request or a reply that is not used: its stage, its id, and the reason, without any text."""

    stage: Stage
    id: str
    sample: int = 0
    reason: str


class Cost(NamedTuple):
    """Cost of a stage: calls of its model, tokens where they are counted, and seconds of this command."""

    calls: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def plus(self, other: Cost) -> Cost:
        """Return the cost of both.

        >>> Cost(calls=2, seconds=0.5).plus(Cost(calls=1, tokens=9))
        Cost(calls=3, prompt_tokens=0, tokens=9, seconds=0.5)
        """
        return Cost(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            tokens=self.tokens + other.tokens,
            seconds=round(self.seconds + other.seconds, 3),
        )


NO_COST = Cost()


class StageSummary(Record):
    """Summary of a stage.

    Attributes:
        stage: Name of the stage.
        source: Its model, or `templates`; empty for the requests.
        made: Number of requests or replies that it considered.
        kept: Number of those that it kept.
        dropped: Number of the others by reason.
        distinct: Share of the kept texts that differ, as a fraction.
        calls: Number of replies of the model, those of earlier commands included.
        prompt_tokens: Tokens of their prompts, where the engine counts them.
        tokens: Tokens of the replies, where the engine returns them.
        seconds: Duration of the generation in this command.
    """

    stage: Stage
    source: str = ""
    made: int
    kept: int
    dropped: dict[str, int] = Field(default_factory=dict)
    distinct: float | None = None
    calls: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0


class WrittenRequest(Record):
    """A request that a model wrote for a clause of a policy: a row of a file of requests, with its origin."""

    id: Text
    text: Text
    category: str
    origin: Origin


class ClauseSummary(Record):
    """Number of the kept requests for a clause of a policy by kind, and of the dropped ones by reason."""

    clause: str
    requests: int = 0
    borderline: int = 0
    lookalikes: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)


class TriplesSummary(Record):
    """Summary of `derta triples`.

    Attributes:
        requests: Number of requests, without duplicates.
        triples: Number of rows of `triples.jsonl`.
        counter: Number of rows of `counter.jsonl`.
        without_triple: Number of requests that have no triple.
        clauses: Summary of each clause of the policy that the requests were written from, if any.
        stages: Summary of each stage, in order.
        notes: What the user should know, such as checks that were not made.
        licence: Note on licences in every row.
    """

    requests: int
    triples: int
    counter: int
    without_triple: int
    clauses: Annotated[tuple[ClauseSummary, ...], Field(exclude_if=is_absent)] = ()
    stages: tuple[StageSummary, ...]
    notes: tuple[str, ...] = ()
    licence: str


class StagePlan(Record):
    """Calls that a stage needs at most, and those whose replies are there already."""

    stage: Stage
    source: str
    calls: int
    done: int


def origin_of(model: str, prompt: Prompt, reply: Reply, *verdicts: Verdict) -> Origin:
    """Return the origin of a model's reply."""
    producer = reply.producer or {}
    return Origin(
        source=model,
        version=producer.get("model", ""),
        prompt=prompt.id,
        prompt_hash=prompt_hash(prompt),
        sample=reply.sample,
        seed=reply.seed,
        verdicts=tuple(scored(one) for one in verdicts),
    )


def scored(verdict: Verdict) -> Scored:
    """Return what a row keeps of a verdict."""
    return Scored(judge=verdict.judge, harmful=verdict.harmful, reply_class=verdict.reply_class, score=verdict.score)


def dropped_reply(stage: Stage, reply: Reply, reason: str) -> Dropped:
    """Return the record of a dropped reply."""
    return Dropped(stage=stage, id=reply.prompt_id, sample=reply.sample, reason=reason)


def dropped_request(request: Request, reason: str, *, stage: Stage = "requests") -> Dropped:
    """Return the record of a dropped request."""
    return Dropped(stage=stage, id=request.id, reason=reason)
