"""Answers of local pages: JSON bodies as records, errors of the user in one line, and the files of a page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from importlib.resources import files
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from derta.errors import DertaError
from derta.files import format_validation_error
from derta.messages import Record

R = TypeVar("R", bound=Record)
Endpoint = Callable[[Request], Awaitable[Response]]
MAX_BODY = 2**21
"""Maximum bytes of a request."""
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


async def read_body(request: Request, kind: type[R]) -> R:
    """Return the record in a request's JSON body.

    A body of another type than JSON is refused: other sites may send such bodies without asking this server first.

    Raises:
        HTTPException: the body is too large, no JSON or no such record; the detail is one line.
    """
    if request.headers.get("content-type") != "application/json":
        raise HTTPException(415, "expected a body of JSON")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"expected at most {MAX_BODY} bytes; shorten the text")
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        raise HTTPException(400, format_validation_error(error)) from error


def with_errors(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that answers errors of the user with their message, as JSON with the key `error`."""

    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except DertaError as error:
            return JSONResponse({"error": " ".join(str(error).split())}, status_code=400)
        except HTTPException as error:
            return JSONResponse({"error": error.detail}, status_code=error.status_code)

    return answer


def page_routes(name: str) -> list[Route]:
    """Return the routes of a page's files: `/`, and its script and style.

    The page is a file without variables: the script gets all texts as JSON.
    """
    return [
        _file_route("/", f"{name}.html"),
        _file_route("/page.css", "page.css"),
        _file_route(f"/{name}.js", f"{name}.js"),
    ]


def _file_route(path: str, name: str) -> Route:
    text = (files("derta.ui") / "static" / name).read_text(encoding="utf-8")

    async def answer(request: Request) -> Response:
        del request
        return Response(text, media_type=_TYPES[name.rpartition(".")[2]])

    return Route(path, answer)


def json_route(path: str, value: Mapping[str, Any]) -> Route:
    """Return a route that answers with a fixed value."""

    async def answer(request: Request) -> Response:
        del request
        return JSONResponse(value)

    return Route(path, answer)
