"""The labelling page: an application that shows one reply of a sample after the other and saves each label."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from derta.errors import escape_hidden
from derta.messages import Record
from derta.pipeline.labelling_session import CHOICES, QUESTIONS, LabelSession, next_unlabelled
from derta.ui.answers import json_route, page_routes, read_body, with_errors

T = TypeVar("T")


class Label(Record):
    """A label for the reply with this hash, the `place`-th of the sample."""

    place: int
    reply_hash: str
    word: str


def label_app(session: LabelSession) -> Starlette:
    """Return the application of the labelling page.

    It shows requests and replies, and neither the model nor the attack.
    """
    thread = ThreadPoolExecutor(1)  # one step after the other, as each locks the file

    def in_order(function: Callable[..., T], *arguments: object) -> Awaitable[T]:
        return get_running_loop().run_in_executor(thread, partial(function, *arguments))

    async def row(request: Request) -> Response:
        return JSONResponse(await in_order(_row, session, request.path_params["place"]))

    async def following(request: Request) -> Response:
        del request
        return JSONResponse(await in_order(_progress, session, -1))

    async def save(request: Request) -> Response:
        label = await read_body(request, Label)
        await in_order(session.save, label.reply_hash, label.word)
        return JSONResponse(await in_order(_progress, session, label.place))

    choices = [choice._asdict() for choice in CHOICES[session.measure]]
    return Starlette(
        routes=[
            *page_routes("label"),
            json_route("/setup", {"question": QUESTIONS[session.measure], "choices": choices}),
            Route("/next", with_errors(following)),
            Route("/row/{place:int}", with_errors(row)),
            Route("/save", with_errors(save), methods=["POST"]),
        ]
    )


def _row(session: LabelSession, place: int) -> dict[str, str | int]:
    rows = session.rows()
    if place >= len(rows):
        raise HTTPException(404, f"expected a row below {len(rows)}, got {place}")
    found, request, reply = rows[place]
    texts = {"request": escape_hidden(request), "reply": escape_hidden(reply)}
    return {"place": place, "reply_hash": found.reply_hash, "word": found.word, **texts}


def _progress(session: LabelSession, after: int) -> dict[str, int | None]:
    """Return the number of rows and of labels, and the next row to label."""
    rows = session.rows()
    return {
        "rows": len(rows),
        "labelled": sum(bool(one.row.word) for one in rows),
        "next": next_unlabelled(rows, after),
    }
