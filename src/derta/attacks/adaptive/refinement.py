"""Search by refinement: an attacker model rewrites what the target is asked, given the reply and a judge's score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Literal, NamedTuple

from derta.attacks.adaptive.drafts import Draft, Malformed, attacker_messages, instructions, read_draft
from derta.attacks.attempts import Attempt, best, grade, total, tries_by_request
from derta.attacks.base import check_ids, craft_prompt, user
from derta.attacks.search import Answers, ask_all, ask_prompt
from derta.errors import RecipeError
from derta.files import Appender
from derta.protocols import Engine, Means, Score, Search
from derta.records import Cost, Message, Prompt, Reply, Request, Verdict


@dataclass(frozen=True, slots=True)
class Settings:
    """How a search refines; `talk` keeps one conversation with the target, where PAIR begins anew at each step."""

    attack: str
    template: str
    streams: int
    depth: int
    talk: bool
    tries: int
    remember: int
    max_new_tokens: int
    attacker_tokens: int
    role: Literal["system", "user"]
    requests_at_once: int


class Stream(NamedTuple):
    """One line of attempts at a request; `number` counts from 0."""

    request: Request
    number: int
    history: Sequence[Attempt]


class Drafted(NamedTuple):
    """What the attacker wrote for a stream: a draft, or None, after so many malformed outputs; and their tokens."""

    draft: Draft | None
    malformed: int
    tokens: int


def refine(settings: Settings) -> Search:
    """A search by refinement; see `pair` for what its settings mean."""
    _check(settings)

    def search(requests: Sequence[Request], *, means: Means, rng: Random) -> Iterator[Prompt]:
        if means.attacker is None or means.score is None:
            raise RecipeError(f"{settings.attack}: expected an attacker and a judge; give --attacker and --judge")
        check_ids(requests)
        known = tries_by_request(means.state, requests, key=means.key)
        for begin in range(0, len(requests), settings.requests_at_once):
            group = requests[begin : begin + settings.requests_at_once]
            _search_group(settings, group, known, means, attacker=means.attacker, score=means.score)
            yield from (_found(settings, request, known[request.id]) for request in group)

    return search


def _check(settings: Settings) -> None:
    for option, value in asdict(settings).items():
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise RecipeError(f"{settings.attack}: expected {option} of at least 1, got {value}")


def _search_group(
    settings: Settings,
    group: Sequence[Request],
    known: dict[str, list[Attempt]],
    means: Means,
    *,
    attacker: Engine,
    score: Score,
) -> None:
    """All steps of some requests; a request is done when a reply to it was judged harmful."""
    for step in range(1, settings.depth + 1):
        live = [
            stream
            for request in group
            if not any(attempt.harmful for attempt in known[request.id])
            for stream in _streams(settings, request, known[request.id])
            if len(stream.history) < step
        ]
        if live:
            attempts = _take_step(settings, live, means, attacker=attacker, score=score, step=step)
            with Appender(means.state) as file:
                for attempt in attempts:
                    file.add(attempt)
                    known[attempt.request_id].append(attempt)


def _take_step(
    settings: Settings, live: Sequence[Stream], means: Means, *, attacker: Engine, score: Score, step: int
) -> list[Attempt]:
    """One step of some streams: each of attacker, target and judge is asked in one batch."""
    begun = means.clock()
    drafted = _write(settings, attacker, live, step)
    asked = [_target_prompt(settings, stream, one.draft, step) for stream, one in zip(live, drafted, strict=True)]
    some = [prompt for prompt in asked if prompt is not None]
    answers = ask_all(means.target, some, max_new_tokens=settings.max_new_tokens) if some else Answers({})
    verdicts = _judge(score, some, answers.by_id)
    seconds = (means.clock() - begun) / len(live)
    return [
        _attempt(stream, one, prompt, answers=answers, verdicts=verdicts, key=means.key, step=step, seconds=seconds)
        for stream, one, prompt in zip(live, drafted, asked, strict=True)
    ]


def _streams(settings: Settings, request: Request, attempts: Sequence[Attempt]) -> list[Stream]:
    return [
        Stream(request, number, [one for one in attempts if one.stream == number]) for number in range(settings.streams)
    ]


def _write(settings: Settings, attacker: Engine, live: Sequence[Stream], step: int) -> list[Drafted]:
    """Ask the attacker for every stream's draft; malformed outputs are shown to it, and it is asked again."""
    failures: list[list[Malformed]] = [[] for _ in live]
    drafts: dict[int, Draft] = {}
    tokens = [0] * len(live)
    for number in range(1, settings.tries + 1):
        left = [i for i in range(len(live)) if i not in drafts]
        prompts = [_attacker_prompt(settings, live[i], failures[i], f"{step}.{number}") for i in left]
        answers = ask_all(attacker, prompts, max_new_tokens=settings.attacker_tokens) if left else Answers({})
        for i, prompt in zip(left, prompts, strict=True):
            reply = answers.by_id.get(prompt.id)
            read = read_draft(reply.text) if reply else Malformed("", "no answer")
            tokens[i] += answers.tokens(prompt.id)
            if isinstance(read, Draft):
                drafts[i] = read
            else:
                failures[i].append(read)
    return [Drafted(drafts.get(i), len(failures[i]), tokens[i]) for i in range(len(live))]


def _attacker_prompt(settings: Settings, stream: Stream, failures: Sequence[Malformed], name: str) -> Prompt:
    told = instructions(settings.template, stream.request, stream=stream.number, streams=settings.streams)
    messages = attacker_messages(told, stream.history, failures, remember=settings.remember, role=settings.role)
    return ask_prompt(stream.request, f"{stream.number}/{name}", messages, attack=settings.attack)


def _target_prompt(settings: Settings, stream: Stream, draft: Draft | None, step: int) -> Prompt | None:
    if draft is None:
        return None
    before: tuple[Message, ...] = ()
    last = next((one for one in reversed(stream.history) if one.messages), None)
    if settings.talk and last is not None and last.messages:
        before = (*last.messages, Message(role="assistant", content=last.reply))
    return ask_prompt(stream.request, f"{stream.number}/{step}", (*before, *user(draft.prompt)), attack=settings.attack)


def _judge(score: Score, prompts: Sequence[Prompt], replies: Mapping[str, Reply]) -> dict[str, Verdict]:
    answered = [prompt for prompt in prompts if prompt.id in replies]
    verdicts = score(answered, [replies[prompt.id] for prompt in answered]) if answered else []
    return {prompt.id: verdict for prompt, verdict in zip(answered, verdicts, strict=True)}


def _attempt(
    stream: Stream,
    drafted: Drafted,
    prompt: Prompt | None,
    *,
    answers: Answers,
    verdicts: Mapping[str, Verdict],
    key: str,
    step: int,
    seconds: float,
) -> Attempt:
    name = prompt.id if prompt is not None else ""
    reply, verdict = answers.by_id.get(name), verdicts.get(name)
    return Attempt(
        search=key,
        request_id=stream.request.id,
        stream=stream.number,
        step=step,
        messages=prompt.messages if prompt is not None and reply is not None else None,
        note=drafted.draft.improvement if drafted.draft else "",
        reply=reply.text if reply else "",
        harmful=verdict.harmful if verdict else None,
        score=grade(verdict) if verdict else None,
        malformed=drafted.malformed,
        cost=Cost(
            target_queries=int(reply is not None),
            attacker_queries=drafted.malformed + int(drafted.draft is not None),
            judge_queries=int(verdict is not None),
            tokens=drafted.tokens + answers.tokens(name),
            seconds=seconds,
        ),
    )


def _found(settings: Settings, request: Request, attempts: Sequence[Attempt]) -> Prompt:
    """The best prompt; the plain request where the attacker never wrote one."""
    chosen = best(attempts)
    messages = chosen.messages if chosen is not None else None
    return craft_prompt(request, attack=settings.attack, messages=messages or user(request.text), cost=total(attempts))
