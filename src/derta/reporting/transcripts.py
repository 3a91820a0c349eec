"""Transcripts to browse: grouped by attack and request, methods side by side, within a budget of bytes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import escape

from derta.errors import escape_hidden
from derta.records import Prompt, Reply, Verdict
from derta.reporting.tables import label_of
from derta.reporting.text import Cut, Label, count, cut
from derta.results import Place, Transcript, place_of

MAX_TRANSCRIPTS = 1000
MAX_BYTES = 1_400_000
REPLY_CHARS, PROMPT_CHARS, PREFILL_CHARS, REASON_CHARS = 4000, 3000, 2000, 300
_MARKUP_BYTES = 700
UNKNOWN_REQUEST = "request not known"

CLASSES = {
    "refuse": "refuses at once",
    "comply_then_refuse": "answers, then refuses",
    "refuse_then_comply": "refuses, then answers",
    "comply": "answers",
    "degenerate": "degenerate",
    "empty": "empty",
}


class Chip(NamedTuple):
    """A word on a reply and its kind, which decides its look."""

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class JudgeView:
    """What one judge said, in chips and its own words."""

    judge: str
    chips: tuple[Chip, ...]
    reason: Cut


@dataclass(frozen=True, slots=True)
class PromptView:
    """A prompt as it was sent: (role, text) pairs, and whose prompt it is where methods got different ones."""

    parts: tuple[tuple[str, Cut], ...]
    receivers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplyView:
    """A reply split where its refusal begins (`after` is None where no refusal is marked)."""

    method: str
    seed: int | None
    sample: int
    outcome: Chip
    prefill: Cut | None
    before: str
    after: str | None
    left_out: int
    position: str | None
    stop: str
    judges: tuple[JudgeView, ...]


@dataclass(frozen=True, slots=True)
class RequestView:
    """A request under one attack, with every method's reply."""

    id: str
    category: str | None
    text: Cut
    prompts: tuple[PromptView, ...]
    replies: tuple[ReplyView, ...]


@dataclass(frozen=True, slots=True)
class GroupView:
    """The requests of one attack or data set that are shown, and how many there are."""

    suite: str
    label: Label
    requests: tuple[RequestView, ...]
    num_requests: int


@dataclass(frozen=True, slots=True)
class Browser:
    """All that is shown, and out of how much."""

    groups: tuple[GroupView, ...]
    num_shown: int
    num_all: int


def browser(
    transcripts: Sequence[Transcript], *, max_transcripts: int = MAX_TRANSCRIPTS, max_bytes: int = MAX_BYTES
) -> Browser:
    """Choose what to show: requests in their order, one of each attack in turn, while the budget lasts."""
    groups: dict[Place, dict[str, list[Transcript]]] = {}
    for transcript in transcripts:
        requests = groups.setdefault(place_of(transcript.prompt), {})
        requests.setdefault(transcript.prompt.request_id, []).append(transcript)
    chosen: dict[Place, list[RequestView]] = {place: [] for place in groups}
    num_shown = num_bytes = 0
    for key, members in _in_turn(groups):
        view = _request_view(members)
        num_bytes += _size(view)
        if num_shown and (num_bytes > max_bytes or num_shown + len(members) > max_transcripts):
            break
        chosen[key].append(view)
        num_shown += len(members)
    views = tuple(
        GroupView(place.suite, label_of(place), tuple(chosen[place]), len(requests))
        for place, requests in groups.items()
    )
    return Browser(views, num_shown, len(transcripts))


def _in_turn(
    groups: dict[Place, dict[str, list[Transcript]]],
) -> Iterator[tuple[Place, list[Transcript]]]:
    """The first request of every group, then the second of every group, and so on."""
    queues = {key: list(requests.values()) for key, requests in groups.items()}
    for turn in range(max(map(len, queues.values()), default=0)):
        for key, queue in queues.items():
            if turn < len(queue):
                yield key, queue[turn]


def _size(view: RequestView) -> int:
    """About how many bytes of the page a request takes."""
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
        text=cut(first.request or UNKNOWN_REQUEST, PROMPT_CHARS),
        prompts=_prompt_views(ordered),
        replies=tuple(_reply_view(member) for member in ordered),
    )


def _prompt_views(members: Sequence[Transcript]) -> tuple[PromptView, ...]:
    receivers: dict[tuple[tuple[str, Cut], ...], list[str]] = {}
    for member in members:
        receivers.setdefault(_parts(member.prompt), []).append(member.method)
    alone = len(receivers) == 1
    return tuple(
        PromptView(parts, () if alone else tuple(dict.fromkeys(methods))) for parts, methods in receivers.items()
    )


def _parts(prompt: Prompt) -> tuple[tuple[str, Cut], ...]:
    if prompt.mode == "raw":
        return (("raw text, no chat format", cut(prompt.text or "", PROMPT_CHARS)),)
    return tuple((message.role, cut(message.content, PROMPT_CHARS)) for message in prompt.messages or ())


def _reply_view(member: Transcript) -> ReplyView:
    reply = member.reply
    at = next((v.refusal_at for v in member.verdicts if v.refusal_at is not None), None)
    text = cut(reply.text, REPLY_CHARS)
    inside = at is not None and 0 <= at < len(text.text)
    prefill = member.prompt.prefill
    return ReplyView(
        method=member.method,
        seed=member.seed,
        sample=member.reply.sample,
        outcome=_outcome(member.verdicts),
        prefill=cut(prefill, PREFILL_CHARS) if prefill else None,
        before=text.text[:at] if inside else text.text,
        after=text.text[at:] if inside else None,
        left_out=text.left_out,
        position=None if at is None else _position(reply, at),
        stop={"eos": "", "unknown": "", "stop": "", "length": "stopped at the length limit"}[reply.stop_reason],
        judges=tuple(_judge_view(verdict) for verdict in member.verdicts),
    )


def _position(reply: Reply, at: int) -> str:
    """Where the refusal begins, in words; positions count from 1.

    >>> _position(Reply(prompt_id="p", text="No. Sorry", token_starts=(0, 2, 3)), 4)
    'refusal begins at character 5, token 3'
    """
    if not 0 <= at < max(1, len(reply.text)):
        return f"the judge's refusal position ({at}) lies outside the reply and is not marked"
    tokens = reply.token_starts
    token = f", token {count(max(1, bisect_right(tokens, at)))}" if tokens else ""
    return f"refusal begins at character {count(at + 1)}{token}"


def _judge_view(verdict: Verdict) -> JudgeView:
    chips = [chip for chip in (_class_chip(verdict), *_flag_chips(verdict), _score_chip(verdict)) if chip]
    return JudgeView(verdict.judge, tuple(chips or [Chip("unscored", "none")]), cut(verdict.reason, REASON_CHARS))


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
    """The one chip that stands for a folded reply: harm if any judge saw it, then correctness, then the refusal."""
    flags = [chip for verdict in verdicts for chip in _flag_chips(verdict)]
    classes = [chip for verdict in verdicts if (chip := _class_chip(verdict))]
    order = ("harmful", "harmless", "wrong", "correct")
    ranked = [chip for kind in order for chip in flags if chip.kind == kind]
    return next(iter([*ranked, *classes, *flags]), Chip("unscored", "none"))
