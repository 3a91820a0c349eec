"""Search by refinement: an attacker model rewrites the prompt, given the target's reply and a judge's score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Literal, NamedTuple

from derta.attacks.adaptive.drafts import Draft, MalformedOutput, attacker_instructions, attacker_messages, parse_draft
from derta.attacks.attempts import Attempt, best, grade, total
from derta.attacks.base import Attack
from derta.attacks.prompts import craft_prompt, user
from derta.attacks.search import JudgeCases, ReplyBatch, SearchContext, generate_all, query_prompt, required
from derta.errors import RecipeError
from derta.protocols import Case, Engine
from derta.records import Cost, Message, Prompt, Reply, Request, Verdict


@dataclass(frozen=True, slots=True)
class RefinementSettings:
    """Options of a search by refinement, see `pair`.

    `multi_turn` keeps one conversation with the target; without it, each step starts a new conversation.
    """

    attack: str
    template: str
    streams: int
    depth: int
    multi_turn: bool
    attacker_attempts: int
    remember: int
    max_new_tokens: int
    attacker_tokens: int
    role: Literal["system", "user"]
    requests_at_once: int


class Stream(NamedTuple):
    """One sequence of attempts for a request; `number` counts from 0."""

    request: Request
    number: int
    history: Sequence[Attempt]


class DraftResult(NamedTuple):
    """The attacker's draft for a stream (None if all outputs were malformed), and the counts of outputs and tokens."""

    draft: Draft | None
    malformed: int
    tokens: int


def refine(settings: RefinementSettings) -> Attack:
    """Build a search by refinement from its options, which `pair` documents."""
    _check(settings)

    def search(requests: Sequence[Request], *, context: SearchContext, rng: Random) -> Iterator[Prompt]:
        for start in range(0, len(requests), settings.requests_at_once):
            group = requests[start : start + settings.requests_at_once]
            _search_group(settings, group, context)
            yield from (_best_prompt(settings, request, context.log.attempts(request)) for request in group)

    return Attack(settings.attack, searching=search, needs_attacker=True, needs_judge=True)


def _check(settings: RefinementSettings) -> None:
    for option, value in asdict(settings).items():
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise RecipeError(f"{settings.attack}: expected {option} of at least 1, got {value}")


def _search_group(settings: RefinementSettings, group: Sequence[Request], context: SearchContext) -> None:
    """Run all steps for a group of requests; a request is complete when a reply to it is judged harmful."""
    for step in range(1, settings.depth + 1):
        live = [
            stream
            for request in group
            if not any(attempt.harmful for attempt in context.log.attempts(request))
            for stream in _streams(settings, request, context.log.attempts(request))
            if len(stream.history) < step
        ]
        if live:
            context.log.extend(_take_step(settings, live, context, step=step))


def _take_step(
    settings: RefinementSettings, live: Sequence[Stream], context: SearchContext, *, step: int
) -> list[Attempt]:
    """Run one step of all live streams, with one batch each for attacker, target and judge."""
    attacker, judge = required(context.attacker, "an attacker"), required(context.judge, "a judge")
    started = context.clock()
    results = _write_drafts(settings, attacker, live, step)
    prompts = [_target_prompt(settings, stream, one.draft, step) for stream, one in zip(live, results, strict=True)]
    sent = [prompt for prompt in prompts if prompt is not None]
    batch = generate_all(context.target, sent, max_new_tokens=settings.max_new_tokens) if sent else ReplyBatch({})
    verdicts = _judge(judge, sent, batch.by_id)
    seconds = (context.clock() - started) / len(live)
    return [
        _attempt(stream, one, prompt, batch=batch, verdicts=verdicts, key=context.log.key, step=step, seconds=seconds)
        for stream, one, prompt in zip(live, results, prompts, strict=True)
    ]


def _streams(settings: RefinementSettings, request: Request, attempts: Sequence[Attempt]) -> list[Stream]:
    return [
        Stream(request, number, [one for one in attempts if one.stream == number]) for number in range(settings.streams)
    ]


def _write_drafts(
    settings: RefinementSettings, attacker: Engine, live: Sequence[Stream], step: int
) -> list[DraftResult]:
    """Generate the attacker's draft for every stream; after a malformed output, prompt again with the error."""
    failures: list[list[MalformedOutput]] = [[] for _ in live]
    drafts: dict[int, Draft] = {}
    tokens = [0] * len(live)
    for number in range(1, settings.attacker_attempts + 1):
        pending = [i for i in range(len(live)) if i not in drafts]
        prompts = [_attacker_prompt(settings, live[i], failures[i], f"{step}.{number}") for i in pending]
        batch = generate_all(attacker, prompts, max_new_tokens=settings.attacker_tokens) if pending else ReplyBatch({})
        for i, prompt in zip(pending, prompts, strict=True):
            reply = batch.by_id.get(prompt.id)
            parsed = parse_draft(reply.text) if reply else MalformedOutput("", "no answer")
            tokens[i] += batch.tokens(prompt.id)
            if isinstance(parsed, Draft):
                drafts[i] = parsed
            else:
                failures[i].append(parsed)
    return [DraftResult(drafts.get(i), len(failures[i]), tokens[i]) for i in range(len(live))]


def _attacker_prompt(
    settings: RefinementSettings, stream: Stream, failures: Sequence[MalformedOutput], name: str
) -> Prompt:
    text = attacker_instructions(settings.template, stream.request, stream=stream.number, streams=settings.streams)
    messages = attacker_messages(text, stream.history, failures, remember=settings.remember, role=settings.role)
    return query_prompt(stream.request, f"{stream.number}/{name}", messages, attack=settings.attack)


def _target_prompt(settings: RefinementSettings, stream: Stream, draft: Draft | None, step: int) -> Prompt | None:
    if draft is None:
        return None
    before = stream.request.messages
    last = next((one for one in reversed(stream.history) if one.messages), None)
    if settings.multi_turn and last is not None and last.messages:
        before = (*last.messages, Message(role="assistant", content=last.reply))
    return query_prompt(
        stream.request,
        f"{stream.number}/{step}",
        (*before, *user(draft.prompt)),
        attack=settings.attack,
        tools=stream.request.tools,
    )


def _judge(judge: JudgeCases, prompts: Sequence[Prompt], replies: Mapping[str, Reply]) -> dict[str, Verdict]:
    cases = [Case(prompt, replies[prompt.id]) for prompt in prompts if prompt.id in replies]
    verdicts = judge(cases) if cases else []
    return {case.prompt.id: verdict for case, verdict in zip(cases, verdicts, strict=True)}


def _attempt(
    stream: Stream,
    result: DraftResult,
    prompt: Prompt | None,
    *,
    batch: ReplyBatch,
    verdicts: Mapping[str, Verdict],
    key: str,
    step: int,
    seconds: float,
) -> Attempt:
    name = prompt.id if prompt is not None else ""
    reply, verdict = batch.by_id.get(name), verdicts.get(name)
    return Attempt(
        search=key,
        request_id=stream.request.id,
        stream=stream.number,
        step=step,
        messages=prompt.messages if prompt is not None and reply is not None else None,
        note=result.draft.improvement if result.draft else "",
        reply=reply.text if reply else "",
        harmful=verdict.harmful if verdict else None,
        score=grade(verdict) if verdict else None,
        malformed=result.malformed,
        cost=Cost(
            target_queries=int(reply is not None),
            attacker_queries=result.malformed + int(result.draft is not None),
            judge_queries=int(verdict is not None),
            tokens=result.tokens + batch.tokens(name),
            seconds=seconds,
        ),
    )


def _best_prompt(settings: RefinementSettings, request: Request, attempts: Sequence[Attempt]) -> Prompt:
    """Return the best prompt, or by default the plain request if the attacker wrote none."""
    chosen = best(attempts)
    messages = chosen.messages if chosen is not None else None
    return craft_prompt(
        request, attack=settings.attack, messages=messages or request.conversation, cost=total(attempts)
    )
