"""Views of replies: the text, split where its refusal starts, and the verdicts as labels and classes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from derta.records import Reply, Verdict
from derta.reporting.text import REDACTED, TruncatedText, format_count, truncate
from derta.results import Transcript

REPLY_CHARS, PREFILL_CHARS, REASON_CHARS = 4000, 2000, 300

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

HARM, CORRECTNESS, REFUSAL = ("harmful", "harmless"), ("correct", "wrong"), ("refused", "not_refused")
"""Classes of a reply by a judge's outcome: if it is true, and if it is false."""


class Chip(NamedTuple):
    """Short label of a reply, and its CSS class."""

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class JudgeView:
    """Verdict of one judge: chips, the judge's reason, and the classes of the reply that a filter can select."""

    judge: str
    chips: tuple[Chip, ...]
    classes: tuple[str, ...]
    reason: TruncatedText


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


def reply_view(member: Transcript) -> ReplyView:
    """Return the view of a reply and its verdicts; the refusal starts where the first judge with a position says."""
    reply = member.reply
    refusal_at = next((v.refusal_at for v in member.verdicts if v.refusal_at is not None), None)
    text = truncate(reply.text, REPLY_CHARS)
    is_marked = refusal_at is not None and 0 <= refusal_at < len(text.text) and reply.text != REDACTED
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
    if reply.text != REDACTED and not 0 <= refusal_at < max(1, len(reply.text)):
        return f"the judge's refusal position ({refusal_at}) is outside the reply and is not marked"
    tokens = reply.token_starts
    token = f", token {format_count(max(1, bisect_right(tokens, refusal_at)))}" if tokens else ""
    return f"refusal starts at character {format_count(refusal_at + 1)}{token}"


def _judge_view(verdict: Verdict) -> JudgeView:
    chips = [chip for chip in (_class_chip(verdict), *_flag_chips(verdict), _score_chip(verdict)) if chip]
    return JudgeView(
        judge=verdict.judge,
        chips=tuple(chips or [_no_outcome(verdict)]),
        classes=classes_of(verdict),
        reason=truncate(verdict.reason, REASON_CHARS),
    )


def classes_of(verdict: Verdict) -> tuple[str, ...]:
    """Return the classes of a reply by a verdict: its reply class and the outcomes that the judge decided.

    >>> classes_of(Verdict(prompt_id="p", judge="refusal", refused=True, reply_class="comply_then_refuse"))
    ('refused', 'comply_then_refuse')
    >>> classes_of(Verdict(prompt_id="p", judge="harm"))
    ('unscored',)
    """
    outcomes = ((verdict.harmful, HARM), (verdict.correct, CORRECTNESS), (verdict.refused, REFUSAL))
    found = [names[not outcome] for outcome, names in outcomes if outcome is not None]
    found += [verdict.reply_class] if verdict.reply_class else []
    return tuple(found) or (_no_outcome(verdict).text,)


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
