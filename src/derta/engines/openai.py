"""Settings of the engine for OpenAI-compatible servers, checked and loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from derta.chat import chat_format
from derta.config import RowConfig
from derta.engines.endpoints import DEFAULT_ENDPOINT, KEY_VARIABLE, parse_host
from derta.engines.openai_calls import Send
from derta.engines.openai_engine import ApiEngine
from derta.engines.scheduler import Limits
from derta.errors import EngineError, install_advice
from derta.records import REFUSAL_WORDS


def load(
    model: str | Path,
    *,
    endpoints: str | Sequence[str] = DEFAULT_ENDPOINT,
    send: Send | None = None,
    tokenizer: str | Path | None = None,
    template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
    template_date: str = RowConfig.template_date,
    thinking: bool = True,
    refusal_words: Sequence[str] = REFUSAL_WORDS,
    body: Mapping[str, Any] | None = None,
    api_key_env: str | None = None,
    concurrency: int = 16,
    requests_per_minute: float | None = None,
    attempts: int = 8,
    timeout: float = 600.0,
    patience: float = 300.0,
    trust_remote_code: bool = False,
) -> ApiEngine:
    """Configure an engine for a served model; no request is sent.

    Args:
        model: Name of the model on the servers.
        endpoints: Addresses of the servers (`http://127.0.0.1:8000/v1`); requests are balanced over them.
        send: `messages`, `text` or `ids` (see `Send`); by default `ids` with a tokenizer, else `messages`.
        tokenizer: Folder or hub id of the served model, to render prompts locally.
        template: Chat template: `auto`, `paper`, `paper_eval` or a Jinja file.
        template_kwargs: Additional variables of the template.
        template_date: The date of a template that writes today's, as YYYY-MM-DD.
        thinking: Whether replies of a model that thinks begin with its thought, or after an empty one.
        refusal_words: Words that `refusal_probability` counts as the start of a refusal.
        body: Fields to add to each request; null removes a field.
        api_key_env: Environment variable with the API key; by default OPENAI_API_KEY, if it is set.
        concurrency: Maximum number of requests in flight, over all endpoints.
        requests_per_minute: Rate limit over all endpoints; None is no limit.
        attempts: Maximum number of failed attempts per prompt.
        timeout: Seconds until a request times out.
        patience: Seconds without an answer from any server until the run stops.
        trust_remote_code: Run code that the tokenizer contains.

    Raises:
        EngineError: Invalid setting, missing API key, or the package `openai` is missing.
        ModelError: The tokenizer does not exist.
    """
    if find_spec("openai") is None:
        raise EngineError(f"engine api: expected the package openai, which is not installed; {install_advice('api')}")
    addresses = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints)
    if not addresses:
        raise EngineError("endpoints: expected at least one address, got none")
    for address in addresses:
        parse_host(address)
    _check_numbers(concurrency=concurrency, attempts=attempts, timeout=timeout, requests_per_minute=requests_per_minute)
    _check_numbers(patience=patience)
    chosen = send or ("messages" if tokenizer is None else "ids")
    if chosen not in get_args(Send):
        raise EngineError(f"send: expected one of {', '.join(get_args(Send))}, got {chosen!r}")
    if (chosen == "messages") != (tokenizer is None):
        needed = "no tokenizer, as the server renders them" if chosen == "messages" else "the served model's tokenizer"
        raise EngineError(f"send={chosen}: expected {needed}; got tokenizer={tokenizer!s}")
    if tokenizer is None and (template != "auto" or template_kwargs):
        raise EngineError(
            "template: expected a tokenizer to render with, got none; without one the server uses its template"
        )
    if api_key_env is not None and not os.environ.get(api_key_env):
        raise EngineError(f"api_key_env: expected a key in the environment variable {api_key_env!r}, got none; set it")
    chat = None
    if tokenizer is not None:
        from derta.loading import load_tokenizer

        loaded = load_tokenizer(str(tokenizer), trust_remote_code=trust_remote_code)
        chat = chat_format(
            loaded, template=template, template_kwargs=template_kwargs, date=template_date, thinking=thinking
        )
    limits = Limits(
        concurrency=concurrency, requests_per_minute=requests_per_minute, attempts=attempts, patience=patience
    )
    return ApiEngine(
        model=str(model),
        endpoints=addresses,
        send=chosen,
        chat=chat,
        refusal_words=tuple(refusal_words),
        body=dict(body or {}),
        key_variable=api_key_env or KEY_VARIABLE,
        timeout=timeout,
        limits=limits,
    )


def _check_numbers(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and number <= 0:
            raise EngineError(f"{name}: expected a number above 0, got {number}")
