"""Requests of `derta triples`: read from files, each once, in conversations that alternate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from derta.config import SourceSection
from derta.data.matching import request_key, request_turns
from derta.errors import DataError
from derta.pipeline.request_sources import read_counted
from derta.pipeline.triples.rows import Dropped, dropped_request
from derta.records import Message, Request
from derta.sources import source_name


class AcceptedRequests(NamedTuple):
    """Requests that triples are made of, and the dropped ones."""

    requests: list[Request]
    dropped: list[Dropped]


def load_sources(sources: Sequence[SourceSection]) -> AcceptedRequests:
    """Return the requests of data sources, and a record for each row that repeats one in its file.

    With a limit, the first requests are returned. The ids of several sources get the source's name as a prefix.

    Raises:
        DataError: a source cannot be read, or has no request.
    """
    requests: list[Request] = []
    dropped: list[Dropped] = []
    for source in sources:
        read = read_counted(source)
        found = read.requests[: source.limit]
        prefix = f"{source_name(source.path)}/" if len(sources) > 1 else ""
        requests += [one.model_copy(update={"id": f"{prefix}{one.id}"}) if prefix else one for one in found]
        dropped += [
            Dropped(stage="requests", id=f"{source_name(source.path)}, repetition {number}", reason="duplicate")
            for number in range(1, read.repeated + 1)
        ]
    return AcceptedRequests(requests, dropped)


def accept_requests(requests: Iterable[Request]) -> AcceptedRequests:
    """Return the requests without duplicates and without conversations whose turns do not alternate.

    >>> first = Request(id="1", text="How do I brew it?")
    >>> accepted = accept_requests([first, first.model_copy(update={"id": "2", "text": "how do I brew it"})])
    >>> [one.id for one in accepted.requests], [(one.id, one.reason) for one in accepted.dropped]
    (['1'], [('2', 'duplicate')])

    Raises:
        DataError: two different requests have the same id, or there are none.
    """
    accepted: dict[str, Request] = {}
    seen: set[object] = set()
    dropped: list[Dropped] = []
    for request in requests:
        key = request_key(request_turns(request.conversation))
        if key in seen:
            dropped.append(dropped_request(request, "duplicate"))
        elif not alternates(request.conversation):
            dropped.append(dropped_request(request, "turns_do_not_alternate"))
        elif request.id in accepted:
            raise DataError(f"requests: expected unique ids, got {request.id!r} for two requests; rename one of them")
        else:
            accepted[request.id] = request
            seen.add(key)
    if not accepted:
        raise DataError(f"requests: expected requests, got none that can be used ({len(dropped)} dropped)")
    return AcceptedRequests(list(accepted.values()), dropped)


def alternates(conversation: Sequence[Message]) -> bool:
    """Return whether user and assistant take turns, after a system message; calls and results of tools count as one.

    >>> user, assistant = Message(role="user", content="Bread?"), Message(role="assistant", content="Which?")
    >>> alternates([user, assistant, user]), alternates([user, user]), alternates([assistant, user])
    (True, False, False)
    """
    turns = list(conversation)
    if turns and turns[0].role == "system":
        del turns[0]
    previous = "assistant"
    for message in turns:
        after_tool = previous == "tool" and message.role == "assistant"
        if message.role == "tool":
            fits = previous in ("assistant", "tool")
        else:
            fits = after_tool or {message.role, previous} == {"user", "assistant"}
        if not fits:
            return False
        previous = message.role
    return previous == "user"
