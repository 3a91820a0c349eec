"""Data of the report's script, which shows, filters and searches all replies.

The JSON is compressed and written as base64: 5,000 replies of 650 characters with their prompts are 6.2 MB of JSON, and
2.7 MB compressed if they are random words (`benchmarks/report_page.py`), which is harder than replies of models. Base64
has no character that HTML or a script could take for its own.
"""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from derta.errors import escape_hidden
from derta.reporting.reply_views import CLASSES, CORRECTNESS, HARM, REFUSAL, JudgeView, ReplyView
from derta.reporting.tables import SUITES
from derta.reporting.text import TruncatedText, label_slug
from derta.reporting.transcripts import RequestView, select_requests
from derta.results import Place, Transcript

MAX_DATA_BYTES = 100_000_000
"""Most bytes of texts, before compression, that a browser is to open."""

CLASS_TITLES = {
    "harmful": "harmful",
    "harmless": "not harmful",
    "correct": "correct",
    "wrong": "wrong",
    "refused": "refused (any position)",
    "not_refused": "not refused",
    **CLASSES,
    "unscored": "unscored",
    "unanswered": "unanswered",
}
"""Classes of replies that a filter can select, with their titles."""


class Explorer(NamedTuple):
    """Compressed data of the script, with the number of replies in it and of all replies."""

    data: str
    num_replies: int
    num_total: int


def explorer(
    transcripts: Sequence[Transcript], *, styles: Mapping[str, int], max_bytes: int = MAX_DATA_BYTES
) -> Explorer:
    """Return the data of the explorer: all replies, or the first requests of each attack up to a limit.

    Args:
        transcripts: All replies of the report.
        styles: Number of the colour and marker of each method.
        max_bytes: Most bytes of texts before compression.
    """
    selected = select_requests(transcripts, max_bytes=max_bytes)
    views = [view for requests in selected.requests.values() for view in requests]
    classes = {name for view in views for reply in view.replies for judge in reply.judges for name in judge.classes}
    content = {
        "total": len(transcripts),
        "styles": {escape_hidden(method): style for method, style in styles.items()},
        "classes": [[name, title] for name, title in CLASS_TITLES.items() if name in classes],
        "groups": [
            {**_place(place), "requests": [_request(view) for view in requests]}
            for place, requests in selected.requests.items()
        ],
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    data = b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()
    return Explorer(data, selected.num_replies, len(transcripts))


def judges_disagree(judges: Sequence[JudgeView]) -> bool:
    """Return whether two judges contradict each other on a reply.

    They do if they decide harm, correctness or refusal in opposite ways, or if one finds harm in a reply that another
    says refuses at once.

    >>> first, second = (JudgeView(name, (), (name,), TruncatedText("", 0)) for name in ("harmful", "refuse"))
    >>> judges_disagree([first, second]), judges_disagree([first])
    (True, False)
    """
    found = {name for judge in judges for name in judge.classes}
    return any(found.issuperset(pair) for pair in (HARM, CORRECTNESS, REFUSAL, ("harmful", "refuse")))


def _place(place: Place) -> dict[str, Any]:
    return {
        "slug": label_slug(place),
        "suite": place.suite,
        "title": SUITES[place.suite],
        "name": escape_hidden(place.name),
        "attack": escape_hidden(place.attack or ""),
        "variant": escape_hidden(place.variant or ""),
        "dataset": escape_hidden(place.dataset or ""),
    }


def _request(view: RequestView) -> dict[str, Any]:
    return {
        "id": escape_hidden(view.id),
        "category": escape_hidden(view.category or ""),
        "request": _text(view.text),
        "prompts": [
            {
                "receivers": [escape_hidden(name) for name in prompt.receivers],
                "parts": [{"role": role, **_text(text)} for role, text in prompt.parts],
            }
            for prompt in view.prompts
        ],
        "replies": [_reply(reply) for reply in view.replies],
    }


def _reply(view: ReplyView) -> dict[str, Any]:
    return {
        "method": escape_hidden(view.method),
        "seed": view.seed,
        "sample": view.sample,
        "outcome": view.outcome,
        "prefill": None if view.prefill is None else _text(view.prefill),
        "before": escape_hidden(view.before),
        "after": None if view.after is None else escape_hidden(view.after),
        "omitted": view.num_omitted,
        "position": view.position or "",
        "stop": view.stop,
        "missing": escape_hidden(view.missing),
        "disagree": judges_disagree(view.judges),
        "judges": [_judge(judge) for judge in view.judges],
    }


def _judge(view: JudgeView) -> dict[str, Any]:
    return {"judge": escape_hidden(view.judge), "chips": view.chips, "classes": view.classes, **_text(view.reason)}


def _text(text: TruncatedText) -> dict[str, Any]:
    return {"text": escape_hidden(text.text), "omitted": text.num_omitted}
