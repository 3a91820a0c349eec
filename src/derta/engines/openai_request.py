"""One request to an OpenAI-compatible server: sent, and its answer or error parsed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from derta.engines.openai_answers import ChatAnswer, TextAnswer, parse_answer
from derta.engines.openai_calls import Call
from derta.engines.openai_errors import error_from_status
from derta.engines.scheduler import RetryableError

if TYPE_CHECKING:
    from openai import AsyncOpenAI


async def request(client: AsyncOpenAI, model: str, call: Call, *, timeout: float) -> TextAnswer | ChatAnswer:
    """Send one request and return the parsed answer.

    Raises:
        RetryableError: Rate limit, server error, timeout, or truncated answer.
        RejectedError: The server rejects this request.
        EngineError: All requests would fail: a wrong key, address or model, or a long-lasting limit.
    """
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    try:
        async with asyncio.timeout(timeout):  # total time; the client's timeout is between bytes
            if call.route == "chat":
                chat = await client.chat.completions.with_raw_response.create(
                    model=model, messages=[], extra_body=call.body
                )
                return parse_answer(ChatAnswer, chat.content)
            text = await client.completions.with_raw_response.create(model=model, prompt="", extra_body=call.body)
            return parse_answer(TextAnswer, text.content)
    except (APITimeoutError, TimeoutError):
        raise RetryableError(f"{client.base_url}: no answer within {timeout:g} s") from None
    except APIConnectionError as error:
        # the HTTP library differs between versions of the client, so its error is identified by name
        unreachable = type(error.__cause__).__name__ == "ConnectError"
        reason = "cannot be reached" if unreachable else "the connection was dropped"
        raise RetryableError(f"{client.base_url}: {reason}", busy=unreachable, unreachable=unreachable) from None
    except APIStatusError as error:
        raise error_from_status(error, where=str(client.base_url), secret=client.api_key) from None
