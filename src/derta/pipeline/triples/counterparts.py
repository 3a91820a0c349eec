"""Counter rows of `derta triples`: benign counterparts of requests, answered helpfully.

A counterpart is on the topic of its request and has its words, with the harm taken out.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from derta.config import CounterpartSection
from derta.data.matching import request_key
from derta.data.topic import content_words
from derta.pipeline.asking import answer_of, outcomes_of
from derta.pipeline.triples.asking import (
    Models,
    ask_model,
    dropped_prompts,
    harm_judge,
    is_off_topic,
    judge_harm_of,
    no_answer_reason,
    refusal_verdicts,
)
from derta.pipeline.triples.rows import Cost, Dropped, Origin, dropped_reply, origin_of
from derta.protocols import Case, Display
from derta.records import Message, Prompt, Request, Verdict

REPLIES = "counterparts.replies.jsonl"
ANSWERS = "answers.replies.jsonl"
LONGEST = 1000
"""Maximum length of a counterpart in characters."""
_QUOTES = "\"'“”«»`*_ \t"


class Counterparts(NamedTuple):
    """Benign requests by the id of the harmful request, their origins, the dropped replies, and the cost."""

    requests: list[Request]
    origins: dict[str, Origin]
    dropped: list[Dropped]
    cost: Cost


class BenignAnswer(NamedTuple):
    """A benign request with its helpful answer."""

    request: Request
    text: str
    origin: Origin


class BenignAnswers(NamedTuple):
    """The kept answers, the dropped replies, and the cost."""

    kept: list[BenignAnswer]
    dropped: list[Dropped]
    cost: Cost


def make_counterparts(
    requests: Sequence[Request],
    section: CounterpartSection,
    *,
    refusal_words: Sequence[str],
    out: Path,
    models: Models,
    display: Display = Display(),
) -> Counterparts:
    """Return a benign counterpart of each request, with the request's id and reference steps.

    A reply is dropped if it refuses, repeats a request or another counterpart, or has no content word of its request.

    Raises:
        EngineError, ModelError: as in `ask_model`.
    """
    answered = ask_model(
        models,
        section,
        counterpart_prompts(requests),
        path=out / REPLIES,
        max_new_tokens=section.max_new_tokens,
        description="benign counterparts",
        display=display,
    )
    by_id = {request.id: request for request in requests}
    seen = {request_key(request.text) for request in requests}
    kept: list[Request] = []
    origins: dict[str, Origin] = {}
    dropped: list[Dropped] = []
    verdicts = refusal_verdicts(answered.cases, refusal_words=refusal_words)
    for case, verdict in zip(answered.cases, verdicts, strict=True):
        request, text = by_id[case.prompt.request_id], first_request(answer_of(case.reply))
        reason = no_answer_reason(case, verdict, text=text) or _counterpart_reason(request, text, seen=seen)
        if reason is not None:
            dropped.append(dropped_reply("counterparts", case.reply, reason))
            continue
        seen.add(request_key(text))
        kept.append(Request(id=request.id, text=text, category=request.category, steps=request.steps))
        origins[request.id] = origin_of(section.model, case.prompt, case.reply)
    return Counterparts(kept, origins, dropped, answered.cost)


def counterpart_prompts(requests: Sequence[Request]) -> list[Prompt]:
    """Return the prompts for benign counterparts."""
    path = files("derta.pipeline.triples") / "texts" / "counterpart_instructions.txt"
    instructions = path.read_text(encoding="utf-8").strip()
    return [_counterpart_prompt(request, instructions) for request in requests]


def first_request(text: str) -> str:
    r"""Return the request in a model's reply: its first line, without quotation marks and a label before it.

    >>> first_request('\n**Request:** "How is tea made?"\n\nThis one is harmless.')
    'How is tea made?'
    """
    line = next((line for line in text.splitlines() if line.strip(_QUOTES)), "").strip(_QUOTES)
    for label in ("new request:", "request:"):
        if line.lower().startswith(label):
            line = line[len(label) :]
    return line.strip(_QUOTES)


def _counterpart_reason(request: Request, text: str, *, seen: Container[object]) -> str | None:
    if len(text) > LONGEST:
        return "too_long"
    if request_key(text) in seen or content_words(text) == content_words(request.in_context):
        return "repeats_a_request"
    return "off_topic" if is_off_topic(request.in_context, text) else None


def answer_benign(
    requests: Sequence[Request],
    section: CounterpartSection,
    *,
    refusal_words: Sequence[str],
    out: Path,
    models: Models,
    display: Display = Display(),
) -> BenignAnswers:
    """Return helpful answers to benign requests: replies that neither refuse nor are harmful by the section's judge.

    Raises:
        EngineError, ModelError: as in `ask_model`.
    """
    config = section.answers or section
    prompts = [_prompt(request, kind="answer") for request in requests]
    answered = ask_model(
        models,
        config,
        prompts,
        path=out / ANSWERS,
        max_new_tokens=section.max_new_tokens,
        description="answers to counterparts",
        display=display,
    )
    replies = [case.reply for case in answered.cases]
    outcomes = outcomes_of([case.prompt for case in answered.cases], replies, refusal_words=refusal_words)
    dropped = dropped_prompts("answers", answered.refused)
    dropped += [
        dropped_reply("answers", reply, outcome)
        for reply, outcome in zip(replies, outcomes, strict=True)
        if outcome != "answered"
    ]
    answers = [case for case, outcome in zip(answered.cases, outcomes, strict=True) if outcome == "answered"]
    harm = _harm_of(answers, section, out=out, models=models, display=display)
    by_id = {request.id: request for request in requests}
    kept: list[BenignAnswer] = []
    for case in answers:
        verdict = harm.get(case.prompt.id)
        if verdict is not None and verdict.harmful is not False:
            dropped.append(dropped_reply("answers", case.reply, "unjudged" if verdict.harmful is None else "harmful"))
            continue
        verdicts = [] if verdict is None else [verdict]
        origin = origin_of(config.model, case.prompt, case.reply, *verdicts)
        kept.append(BenignAnswer(by_id[case.prompt.request_id], answer_of(case.reply), origin))
    return BenignAnswers(kept, dropped, answered.cost)


def _harm_of(
    cases: Sequence[Case], section: CounterpartSection, *, out: Path, models: Models, display: Display
) -> Mapping[str, Verdict]:
    """Return the verdicts of the section's judge of harm by prompt id; empty without a judge."""
    if section.judge is None:
        return {}
    judge = harm_judge(section.judge, key="counterpart.judge")
    path = out / f"answers.{judge.name}.jsonl"
    verdicts = judge_harm_of(judge, cases, path=path, models=models, display=display)
    return {verdict.prompt_id: verdict for verdict in verdicts}


def _counterpart_prompt(request: Request, instructions: str) -> Prompt:
    text = instructions.replace("{request}", request.in_context)
    messages = (Message(role="user", content=text),)
    return _prompt(request, kind="counterpart").model_copy(update={"messages": messages, "tools": None})


def _prompt(request: Request, *, kind: str) -> Prompt:
    return Prompt(
        id=f"{kind}:{request.id}",
        request_id=request.id,
        request=request.in_context,
        suite="over_refusal",
        attack="direct",
        messages=request.conversation,
        category=request.category,
        steps=request.steps,
        tools=request.tools,
    )
