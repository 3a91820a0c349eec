"""The playground: an application that continues a conversation with each of several models."""

from __future__ import annotations

from asyncio import CancelledError, Lock, get_running_loop, wait
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from derta.errors import did_you_mean
from derta.messages import Record
from derta.pipeline.explored_models import Example
from derta.pipeline.exploring import Continuation, Question, continue_conversation
from derta.ui.answers import json_route, page_routes, read_body, with_errors

if TYPE_CHECKING:
    from derta.engines.hf_engine import HfEngine


POLL_SECONDS = 0.1
"""Time between two looks whether a page is still open."""


class ModelQuestion(Record):
    """A question to one of the models."""

    model: str
    question: Question


def explore_app(engines: Mapping[str, HfEngine], *, examples: Sequence[Example] = (), max_new_tokens: int) -> Starlette:
    """Return the application of the playground; one model generates at a time.

    A reply whose page has gone, or has stopped it, is generated no further.

    Args:
        engines: The loaded models by name.
        examples: Prompts to start from.
        max_new_tokens: Initial number of new tokens.
    """
    thread, turn = ThreadPoolExecutor(1), Lock()

    async def answer(request: Request) -> Response:
        asked = await read_body(request, ModelQuestion)
        if asked.model not in engines:
            raise HTTPException(400, f"model: got {asked.model!r}; {did_you_mean(asked.model, engines)}")
        async with turn:
            found = await _while_open(request, thread, engines[asked.model], asked.question)
        return JSONResponse(found.model_dump(mode="json"))

    setup = {
        "models": [{"name": name, "refusal_words": engine.refusal_words} for name, engine in engines.items()],
        "max_new_tokens": max_new_tokens,
        "examples": [
            {
                "name": one.name,
                "messages": [message.model_dump(include={"role", "content"}) for message in one.messages],
                "prefill": one.prefill,
                "banned": one.banned,
            }
            for one in examples
        ],
    }
    return Starlette(
        routes=[
            *page_routes("explore"),
            json_route("/setup", setup),
            Route("/continue", with_errors(answer), methods=["POST"]),
        ]
    )


async def _while_open(request: Request, thread: Executor, engine: HfEngine, question: Question) -> Continuation:
    """Return the continuation; generation stops at the next token when the page or the server has gone."""
    stop = Event()
    generate = partial(continue_conversation, engine, question, stopped=stop.is_set)
    job = get_running_loop().run_in_executor(thread, generate)
    try:
        while not job.done():
            if await request.is_disconnected():
                stop.set()
            await wait({job}, timeout=POLL_SECONDS)
        return job.result()
    except CancelledError as error:
        stop.set()
        raise HTTPException(503, "derta explore was ended") from error
