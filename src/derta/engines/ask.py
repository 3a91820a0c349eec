"""One request to one server, and what its faults mean: ask again, never ask this again, or ask nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import TYPE_CHECKING

from derta.engines.dispatch import RefusedError, TryAgainError
from derta.engines.wire import Call, ChatAnswer, TextAnswer, parse_answer
from derta.errors import EngineError

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

LONGEST_ASKED_WAIT = 600.0
"""Seconds that a server may ask for; after more than that the run is better begun again later."""


async def ask_once(client: AsyncOpenAI, model: str, call: Call, *, timeout: float) -> TextAnswer | ChatAnswer:
    """Send one request; what went wrong is told as what to do about it.

    Raises:
        TryAgainError: too many requests, the server's own fault, no answer in time, or an answer cut short.
        RefusedError: the server takes this request for a wrong one.
        EngineError: no request will do: a wrong key, address or model, or a limit that lasts.
    """
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    try:
        async with asyncio.timeout(timeout):  # in all; the client's own counts from byte to byte
            if call.route == "chat":
                chat = await client.chat.completions.with_raw_response.create(
                    model=model, messages=[], extra_body=call.body
                )
                return parse_answer(ChatAnswer, chat.content)
            text = await client.completions.with_raw_response.create(model=model, prompt="", extra_body=call.body)
            return parse_answer(TextAnswer, text.content)
    except (APITimeoutError, TimeoutError):
        raise TryAgainError(f"{client.base_url}: no answer within {timeout:g} s") from None
    except APIConnectionError as error:
        # the client's HTTP library is another one in other versions of it, so its error is told by name
        unreachable = type(error.__cause__).__name__ == "ConnectError"
        what = "cannot be reached" if unreachable else "the connection was dropped"
        raise TryAgainError(f"{client.base_url}: {what}", busy=unreachable, unreachable=unreachable) from None
    except APIStatusError as error:
        raise status_fault(error, where=str(client.base_url), secret=client.api_key) from None


def status_fault(error: APIStatusError, *, where: str, secret: str) -> TryAgainError | RefusedError | EngineError:
    """What an HTTP status asks for; the server's words are quoted without the key."""
    status = error.status_code
    told = f"{status} " + " ".join(error.response.text.replace(secret, "…").split())[:300]
    if status in {401, 403}:
        return EngineError(f"{where}: the server does not take the key ({status}); check the variable that holds it")
    if status in {404, 405} or error.code == "insufficient_quota":
        return EngineError(f"{where}: {told}; check the address (most end in /v1), the model's name and the account")
    if status in {408, 409, 425, 429} or status >= 500:
        after = retry_after(error.response.headers, now=datetime.now(UTC))
        if after > LONGEST_ASKED_WAIT:
            return EngineError(f"{where}: asks to wait {after:.0f} s ({status}); run the same command again then")
        return TryAgainError(f"{where}: {told}", after=after, busy=after > 0 or status in {429, 503})
    return RefusedError(f"{where}: refused: {told}; docs/serving.md tells what each server takes")


def retry_after(headers: Mapping[str, str], *, now: datetime) -> float:
    """The seconds that a server asks to wait, from `Retry-After` in seconds or as a date; 0 where it asks for none.

    >>> retry_after({"retry-after": "7"}, now=datetime.now(UTC)), retry_after({}, now=datetime.now(UTC))
    (7.0, 0.0)

    Source: RFC 9110, 10.2.3.
    """
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return max(0.0, seconds) if isfinite(seconds) else 0.0
