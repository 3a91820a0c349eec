"""The playground: an application that continues a conversation with each of several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from derta.errors import did_you_mean
from derta.messages import Record
from derta.pipeline.explored_models import Example
from derta.pipeline.exploring import Question, continue_conversation
from derta.ui.answers import json_route, page_routes, read_body, with_errors

if TYPE_CHECKING:
    from derta.engines.hf import HfEngine


class ModelQuestion(Record):
    """A question to one of the models."""

    model: str
    question: Question


def explore_app(engines: Mapping[str, HfEngine], *, examples: Sequence[Example] = (), max_new_tokens: int) -> Starlette:
    """Return the application of the playground; one model generates at a time.

    A request whose page has gone before its turn is not computed.

    Args:
        engines: The loaded models by name.
        examples: Prompts to start from.
        max_new_tokens: Initial number of new tokens.
    """
    turn = anyio.Lock()

    async def answer(request: Request) -> Response:
        asked = await read_body(request, ModelQuestion)
        if asked.model not in engines:
            raise HTTPException(400, f"model: got {asked.model!r}; {did_you_mean(asked.model, engines)}")
        async with turn:
            if await request.is_disconnected():
                return Response(status_code=499)
            found = await run_sync(continue_conversation, engines[asked.model], asked.question)
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
