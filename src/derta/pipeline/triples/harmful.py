"""Harmful responses of `derta triples`: a model is prompted in some forms, and a judge says which replies are kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from derta.attacks.prompts import craft_prompt
from derta.attacks.static.completing import answer_start, rewrite
from derta.attacks.static.direct import direct
from derta.config import HarmfulSection
from derta.data.matching import match_key
from derta.files import read_records
from derta.pipeline.asking import answer_of
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
from derta.pipeline.triples.rows import Cost, Dropped, Origin, dropped_reply, dropped_request, origin_of
from derta.protocols import Case, Display
from derta.records import Prompt, Record, Request, Text, Verdict

REPLIES = "harmful.replies.jsonl"


class Completion(Record):
    """A sentence of the user for the completing form of a request, and the start of the response that it gives.

    Without `opening`, the response starts with the sentence.
    """

    id: Text
    text: Text
    opening: str | None = None


class Opened(NamedTuple):
    """A prompt for a harmful response, and the start of the response that is not in the reply."""

    prompt: Prompt
    opening: str


class HarmfulResponse(NamedTuple):
    """A harmful response that was kept."""

    text: str
    origin: Origin
    score: float | None


class HarmfulResponses(NamedTuple):
    """The kept responses by the id of the request, the dropped replies, and the cost."""

    kept: dict[str, list[HarmfulResponse]]
    dropped: list[Dropped]
    cost: Cost


class HarmfulPrompts(NamedTuple):
    """Prompts for harmful responses, and the requests for which a form has none."""

    prompts: list[Opened]
    dropped: list[Dropped]


def harmful_prompts(requests: Sequence[Request], section: HarmfulSection) -> HarmfulPrompts:
    """Return the prompts of all forms for each request.

    >>> section = HarmfulSection(model="org/base", form=("direct", "prefill"), starts=("Step 1:",))
    >>> [one.prompt.id for one in harmful_prompts([Request(id="7", text="How is tea made?")], section).prompts]
    ['direct:7', 'prefill@start1:7']
    """
    texts = _read_texts(section.texts)
    prompts: list[Opened] = []
    dropped: list[Dropped] = []
    for request in requests:
        for form in section.form:
            if form == "direct":
                prompts.append(Opened(direct().craft([request])[0], ""))
            elif form == "prefill":
                prompts += [_prefilled(request, start, number) for number, start in enumerate(section.starts, start=1)]
            elif any(message.role != "system" for message in request.messages):
                dropped.append(dropped_request(request, "completing_without_turns", stage="harmful"))
            elif texts is not None and request.id not in texts:
                dropped.append(dropped_request(request, "no_text_to_complete", stage="harmful"))
            else:
                prompts += _completing(request, None if texts is None else texts[request.id])
    return HarmfulPrompts(prompts, dropped)


def _read_texts(path: str | None) -> Mapping[str, list[Completion]] | None:
    if path is None:
        return None
    texts: defaultdict[str, list[Completion]] = defaultdict(list)
    for row in read_records(path, Completion):
        texts[row.id].append(row)
    return dict(texts)


def _prefilled(request: Request, start: str, number: int) -> Opened:
    prompt = craft_prompt(
        request, attack="prefill", variant=f"start{number}", messages=request.conversation, prefill=start
    )
    return Opened(prompt, start)


def _completing(request: Request, texts: Sequence[Completion] | None) -> list[Opened]:
    if texts is None:
        prompt = craft_prompt(request, attack="completing", variant="rules", text=rewrite(request.text).text)
        return [Opened(prompt, answer_start(request.text))]
    return [
        Opened(
            craft_prompt(request, attack="completing", variant=f"text{number}", text=one.text),
            one.text if one.opening is None else one.opening,
        )
        for number, one in enumerate(texts, start=1)
    ]


def make_harmful(
    requests: Sequence[Request],
    section: HarmfulSection,
    *,
    refusal_words: Sequence[str],
    out: Path,
    models: Models,
    display: Display = Display(),
) -> HarmfulResponses:
    """Return harmful responses to requests: replies that answer, are on topic, and are harmful by the judge.

    Args:
        requests: The requests, with unique ids.
        section: The model, its forms, the judge, and how many responses to a request are kept.
        refusal_words: Words that the refusal judge takes for starts of refusals.
        out: The folder for the prompts, replies and verdicts.
        models: The loaded model, if any.
        display: Shows progress.

    Raises:
        EngineError, ModelError: as in `ask_model`. A reply that refuses is dropped and counted.
    """
    judge = harm_judge(section.judge, key="harmful.judge")
    opened, dropped = harmful_prompts(requests, section)
    openings = {one.prompt.id: one.opening for one in opened}
    answered = ask_model(
        models,
        section,
        [one.prompt for one in opened],
        path=out / REPLIES,
        max_new_tokens=section.max_new_tokens,
        description="harmful responses",
        sampling=section.sampling,
        display=display,
    )
    dropped += dropped_prompts("harmful", answered.refused)
    written = {case.reply.key: _written(case) for case in answered.cases}
    refusals = refusal_verdicts(answered.cases, refusal_words=refusal_words)
    reasons = {
        case.reply.key: no_answer_reason(case, verdict, text=written[case.reply.key])
        for case, verdict in zip(answered.cases, refusals, strict=True)
    }
    answers = [case for case in answered.cases if reasons[case.reply.key] is None]
    path = out / f"harmful.{judge.name}.jsonl"
    verdicts = judge_harm_of(judge, answers, path=path, models=models, display=display)
    by_key = {verdict.key: verdict for verdict in verdicts}
    requests_by_id = {request.id: request for request in requests}
    found: defaultdict[str, list[tuple[HarmfulResponse, Case]]] = defaultdict(list)
    for case in answered.cases:
        request, text, verdict = requests_by_id[case.prompt.request_id], written[case.reply.key], None
        reason = reasons[case.reply.key]
        if reason is None:
            verdict = by_key[case.reply.key]
            reason = _harm_reason(verdict, off_topic=section.on_topic and is_off_topic(request.in_context, text))
        if reason is not None or verdict is None:
            dropped.append(dropped_reply("harmful", case.reply, reason or "unjudged"))
            continue
        response = HarmfulResponse(
            openings[case.prompt.id] + text, origin_of(section.model, case.prompt, case.reply, verdict), verdict.score
        )
        found[request.id].append((response, case))
    kept = {name: _best(responses, keep=section.keep, dropped=dropped) for name, responses in found.items()}
    return HarmfulResponses(kept, dropped, answered.cost)


def _written(case: Case) -> str:
    """Return what the model wrote: of a chat its answer, of a text or after a prefill all of it."""
    continues = case.prompt.mode == "raw" or case.prompt.prefill is not None
    return case.reply.text.rstrip() if continues else answer_of(case.reply)


def _harm_reason(verdict: Verdict, *, off_topic: bool) -> str | None:
    if verdict.harmful is None:
        return "unjudged"
    if not verdict.harmful:
        return "harmless"
    return "off_topic" if off_topic else None


def _best(
    responses: Sequence[tuple[HarmfulResponse, Case]], *, keep: int, dropped: list[Dropped]
) -> list[HarmfulResponse]:
    """Return the responses with the highest scores, each text once, and record the others as dropped."""
    ordered = sorted(responses, key=lambda one: -(one[0].score or 0.0))
    kept: dict[str, HarmfulResponse] = {}
    for response, case in ordered:
        key = match_key(response.text)
        if key in kept:
            dropped.append(dropped_reply("harmful", case.reply, "repeated_response"))
        elif len(kept) == keep:
            dropped.append(dropped_reply("harmful", case.reply, "beyond_keep"))
        else:
            kept[key] = response
    return list(kept.values())
