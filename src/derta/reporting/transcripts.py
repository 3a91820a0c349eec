"""Views of transcripts: grouped by attack and request, methods side by side; the first of them, limited by size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import escape

from derta.errors import escape_hidden
from derta.records import Prompt
from derta.reporting.reply_views import ReplyView, reply_view
from derta.reporting.tables import label_of
from derta.reporting.text import Label, TruncatedText, label_slug, truncate
from derta.results import Place, Transcript, place_of

MAX_TRANSCRIPTS = 1000
MAX_BYTES = 1_000_000
MAX_REQUESTS = 14
"""Requests of an attack or data set on a page without its script, which shows all replies."""
PROMPT_CHARS = 3000
_MARKUP_BYTES = 700
UNKNOWN_REQUEST = "unknown request"


@dataclass(frozen=True, slots=True)
class PromptView:
    """Prompt as (role, text) pairs; `receivers` lists its methods if methods received different prompts."""

    parts: tuple[tuple[str, TruncatedText], ...]
    receivers: tuple[str, ...]


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


class Selection(NamedTuple):
    """Views of the selected requests by place, the number of requests there, and the number of selected replies."""

    requests: dict[Place, list[RequestView]]
    num_requests: dict[Place, int]
    num_replies: int


def transcript_browser(
    transcripts: Sequence[Transcript], *, max_transcripts: int = MAX_TRANSCRIPTS, max_bytes: int = MAX_BYTES
) -> TranscriptBrowser:
    """Select the transcripts to display without a script: the first requests of each attack, within limits."""
    selected = select_requests(
        transcripts, max_transcripts=max_transcripts, max_bytes=max_bytes, max_requests=MAX_REQUESTS
    )
    views = tuple(
        GroupView(place.suite, label_slug(place), label_of(place), tuple(requests), selected.num_requests[place])
        for place, requests in selected.requests.items()
    )
    return TranscriptBrowser(views, selected.num_replies, len(transcripts))


def select_requests(
    transcripts: Sequence[Transcript],
    *,
    max_bytes: int,
    max_transcripts: int | None = None,
    max_requests: int | None = None,
) -> Selection:
    """Select requests with all their replies: one request of each attack in turn, until a limit is reached.

    Args:
        transcripts: All replies of the report.
        max_bytes: Most bytes of their texts in a page, by an estimate; one request is selected whatever its size.
        max_transcripts: Most replies.
        max_requests: Most requests of one attack or data set.
    """
    groups: dict[Place, dict[str, list[Transcript]]] = {}
    for transcript in transcripts:
        requests = groups.setdefault(place_of(transcript.prompt), {})
        requests.setdefault(transcript.prompt.request_id, []).append(transcript)
    selected: dict[Place, list[RequestView]] = {place: [] for place in groups}
    num_replies = num_bytes = 0
    for key, members in _round_robin(groups):
        if max_requests is not None and len(selected[key]) == max_requests:
            continue
        view = _request_view(members)
        num_bytes += _estimate_bytes(view)
        too_many = max_transcripts is not None and num_replies + len(members) > max_transcripts
        if num_replies and (num_bytes > max_bytes or too_many):
            break
        selected[key].append(view)
        num_replies += len(members)
    return Selection(selected, {place: len(requests) for place, requests in groups.items()}, num_replies)


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
        replies=tuple(reply_view(member) for member in ordered),
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
