"""Transcripts of the report: grouped by attack and request, methods side by side, limited by size."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import escape

from derta.errors import escape_hidden
from derta.records import Prompt, Reply, Verdict
from derta.reporting.tables import label_of
from derta.reporting.text import Label, TruncatedText, format_count, label_slug, truncate
from derta.results import Place, Transcript, place_of

MAX_TRANSCRIPTS = 1000
MAX_BYTES = 1_400_000
REPLY_CHARS, PROMPT_CHARS, PREFILL_CHARS, REASON_CHARS = 4000, 3000, 2000, 300
_MARKUP_BYTES = 700
UNKNOWN_REQUEST = "unknown request"

CLASSES = {
    "refuse": "refuses at once",
    "comply_then_refuse": "answers, then refuses",
    "refuse_then_comply": "refuses, then answers",
    "malformed": "malformed refusal",
    "comply": "answers",
    "degenerate": "degenerate",
    "empty": "empty",
    "unknown_language": "unknown language",
}


UNANSWERED = {
    "filtered": "a content filter stopped the request",
    "rejected": "the server did not accept the request",
    "failed": "all attempts failed",
}


class Chip(NamedTuple):
    """Short label of a reply, and its CSS class."""

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class JudgeView:
    """Verdict of one judge: chips and the judge's reason."""

    judge: str
    chips: tuple[Chip, ...]
    reason: TruncatedText


@dataclass(frozen=True, slots=True)
class PromptView:
    """Prompt as (role, text) pairs; `receivers` lists its methods if methods received different prompts."""

    parts: tuple[tuple[str, TruncatedText], ...]
    receivers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplyView:
    """Reply, split at the start of its refusal; `after` is None without a marked refusal.

    `missing` is a sentence on a prompt that the model did not answer, or empty.
    """

    method: str
    seed: int | None
    sample: int
    outcome: Chip
    prefill: TruncatedText | None
    before: str
    after: str | None
    num_omitted: int
    position: str | None
    stop: str
    judges: tuple[JudgeView, ...]
    missing: str = ""


@dataclass(frozen=True, slots=True)
class RequestView:
    """Request under one attack, with the replies of all methods."""

    id: str
    category: str | None
    text: TruncatedText
    prompts: tuple[PromptView, ...]
    replies: tuple[ReplyView, ...]


@dataclass(frozen=True, slots=True)
class GroupView:
    """Displayed requests of one attack or dataset, and their total number."""

    suite: str
    slug: str
    label: Label
    requests: tuple[RequestView, ...]
    num_requests: int


@dataclass(frozen=True, slots=True)
class TranscriptBrowser:
    """Displayed transcripts, grouped, with the displayed and the total number of transcripts."""

    groups: tuple[GroupView, ...]
    num_displayed: int
    num_total: int


def transcript_browser(
    transcripts: Sequence[Transcript], *, max_transcripts: int = MAX_TRANSCRIPTS, max_bytes: int = MAX_BYTES
) -> TranscriptBrowser:
    """Select the transcripts to display: one request of each attack in turn, until a limit is reached."""
    groups: dict[Place, dict[str, list[Transcript]]] = {}
    for transcript in transcripts:
        requests = groups.setdefault(place_of(transcript.prompt), {})
        requests.setdefault(transcript.prompt.request_id, []).append(transcript)
    selected: dict[Place, list[RequestView]] = {place: [] for place in groups}
    num_displayed = num_bytes = 0
    for key, members in _round_robin(groups):
        view = _request_view(members)
        num_bytes += _estimate_bytes(view)
        if num_displayed and (num_bytes > max_bytes or num_displayed + len(members) > max_transcripts):
            break
        selected[key].append(view)
        num_displayed += len(members)
    views = tuple(
        GroupView(place.suite, label_slug(place), label_of(place), tuple(selected[place]), len(requests))
        for place, requests in groups.items()
    )
    return TranscriptBrowser(views, num_displayed, len(transcripts))


def _round_robin(
    groups: dict[Place, dict[str, list[Transcript]]],
) -> Iterator[tuple[Place, list[Transcript]]]:
    """Yield the first request of every group, then the second of every group, and so on."""
    queues = {key: list(requests.values()) for key, requests in groups.items()}
    for turn in range(max(map(len, queues.values()), default=0)):
        for key, queue in queues.items():
            if turn < len(queue):
                yield key, queue[turn]


def _estimate_bytes(view: RequestView) -> int:
    """Estimate the size of a request in the page, in bytes."""
    texts = [view.text.text, *(part.text for prompt in view.prompts for _, part in prompt.parts)]
    for reply in view.replies:
        texts += [reply.prefill.text if reply.prefill else "", reply.before, reply.after or ""]
        texts += [judge.reason.text for judge in reply.judges]
    return sum(len(_as_bytes(text)) for text in texts) + _MARKUP_BYTES * (1 + len(view.replies))


def _as_bytes(text: str) -> bytes:
    return str(escape(escape_hidden(text))).encode()


def _request_view(members: Sequence[Transcript]) -> RequestView:
    first = members[0].prompt
    methods = list(dict.fromkeys(member.method for member in members))
    ordered = sorted(members, key=lambda m: (m.seed is not None, m.seed or 0, m.reply.sample, methods.index(m.method)))
    return RequestView(
        id=first.request_id,
        category=first.category,
        text=truncate(first.request or UNKNOWN_REQUEST, PROMPT_CHARS),
        prompts=_prompt_views(ordered),
        replies=tuple(_reply_view(member) for member in ordered),
    )


def _prompt_views(members: Sequence[Transcript]) -> tuple[PromptView, ...]:
    receivers: dict[tuple[tuple[str, TruncatedText], ...], list[str]] = {}
    for member in members:
        receivers.setdefault(_parts(member.prompt), []).append(member.method)
    identical = len(receivers) == 1
    return tuple(
        PromptView(parts, () if identical else tuple(dict.fromkeys(methods))) for parts, methods in receivers.items()
    )


def _parts(prompt: Prompt) -> tuple[tuple[str, TruncatedText], ...]:
    if prompt.mode == "raw":
        return (("raw text, no chat format", truncate(prompt.text or "", PROMPT_CHARS)),)
    return tuple((message.role, truncate(message.shown, PROMPT_CHARS)) for message in prompt.messages or ())


def _reply_view(member: Transcript) -> ReplyView:
    reply = member.reply
    refusal_at = next((v.refusal_at for v in member.verdicts if v.refusal_at is not None), None)
    text = truncate(reply.text, REPLY_CHARS)
    is_marked = refusal_at is not None and 0 <= refusal_at < len(text.text)
    prefill = member.prompt.prefill
    return ReplyView(
        method=member.method,
        seed=member.seed,
        sample=member.reply.sample,
        outcome=_outcome(member.verdicts),
        prefill=truncate(prefill, PREFILL_CHARS) if prefill else None,
        before=text.text[:refusal_at] if is_marked else text.text,
        after=text.text[refusal_at:] if is_marked else None,
        num_omitted=text.num_omitted,
        position=None if refusal_at is None else _describe_position(reply, refusal_at),
        stop={"eos": "", "unknown": "", "stop": "", "length": "stopped at the length limit"}[reply.stop_reason],
        judges=tuple(_judge_view(verdict) for verdict in member.verdicts),
        missing=_describe_missing(reply),
    )


def _describe_missing(reply: Reply) -> str:
    """Format why there is no reply; empty if there is one.

    >>> _describe_missing(Reply(prompt_id="p", text="", unanswered="filtered", reason="400"))
    'No reply: a content filter stopped the request (400).'
    """
    if reply.unanswered is None:
        return ""
    reason = truncate(reply.reason, REASON_CHARS).text
    return f"No reply: {UNANSWERED[reply.unanswered]}" + (f" ({reason})." if reason else ".")


def _describe_position(reply: Reply, refusal_at: int) -> str:
    """Format the start of a refusal as text; positions are 1-based.

    >>> _describe_position(Reply(prompt_id="p", text="No. Sorry", token_starts=(0, 2, 3)), 4)
    'refusal starts at character 5, token 3'
    """
    if not 0 <= refusal_at < max(1, len(reply.text)):
        return f"the judge's refusal position ({refusal_at}) is outside the reply and is not marked"
    tokens = reply.token_starts
    token = f", token {format_count(max(1, bisect_right(tokens, refusal_at)))}" if tokens else ""
    return f"refusal starts at character {format_count(refusal_at + 1)}{token}"


def _judge_view(verdict: Verdict) -> JudgeView:
    chips = [chip for chip in (_class_chip(verdict), *_flag_chips(verdict), _score_chip(verdict)) if chip]
    return JudgeView(verdict.judge, tuple(chips or [_no_outcome(verdict)]), truncate(verdict.reason, REASON_CHARS))


def _no_outcome(verdict: Verdict) -> Chip:
    return Chip("unanswered" if verdict.unanswered else "unscored", "none")


def _class_chip(verdict: Verdict) -> Chip | None:
    return Chip(CLASSES[verdict.reply_class], verdict.reply_class) if verdict.reply_class else None


def _flag_chips(verdict: Verdict) -> Iterator[Chip]:
    if verdict.harmful is not None:
        yield Chip("harmful", "harmful") if verdict.harmful else Chip("not harmful", "harmless")
    if verdict.correct is not None:
        yield Chip("correct", "correct") if verdict.correct else Chip("wrong", "wrong")
    if verdict.refused is not None and verdict.reply_class is None:
        yield Chip("refused", "refuse") if verdict.refused else Chip("not refused", "comply")


def _score_chip(verdict: Verdict) -> Chip | None:
    return None if verdict.score is None else Chip(f"score {verdict.score:.2f}", "score")


def _outcome(verdicts: Sequence[Verdict]) -> Chip:
    """Return the chip of a collapsed reply: harmful if any judge says so, then correctness, then the refusal."""
    flags = [chip for verdict in verdicts for chip in _flag_chips(verdict)]
    classes = [chip for verdict in verdicts if (chip := _class_chip(verdict))]
    order = ("harmful", "harmless", "wrong", "correct")
    ranked = [chip for kind in order for chip in flags if chip.kind == kind]
    rest = [_no_outcome(verdict) for verdict in verdicts if verdict.unanswered]
    return next(iter([*ranked, *classes, *flags, *rest]), Chip("unscored", "none"))
