"""Errors of OpenAI-compatible servers by HTTP status: to retry, to leave unanswered, or to stop at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import TYPE_CHECKING

from derta.engines.scheduler import RejectedError, RetryableError
from derta.errors import EngineError

if TYPE_CHECKING:
    from openai import APIStatusError

_FILTERED = re.compile(r"content.?(?:filter|policy)|moderation|flagged|responsible.?ai", re.I)
"""Words of the content filters of hosted models in an error: Azure OpenAI, OpenAI, OpenRouter."""

LONGEST_WAIT = 600.0
"""Maximum seconds to wait on a server's `Retry-After`; with a longer wait the run stops and can be resumed later."""


def error_from_status(
    error: APIStatusError, *, where: str, secret: str
) -> RetryableError | RejectedError | EngineError:
    """Return the error for an HTTP status; its message quotes the server without the key.

    A 403 for the content of a prompt is told from one for the key by the words of content filters.
    """
    status = error.status_code
    if 300 <= status < 400:
        target = error.response.headers.get("location", "no address")
        return EngineError(
            f"{where}: redirects to {target.replace(secret, '…'):.200} ({status}), which is not followed; pass the new "
            "address if you trust it"
        )
    quoted = f"{status} " + " ".join(error.response.text.replace(secret, "…").split())[:300]
    filtered = _FILTERED.search(error.response.text) is not None
    if status == 401 or (status == 403 and not filtered):
        return EngineError(f"{where}: the server does not accept the key ({status}); check the variable that holds it")
    if status in {404, 405} or error.code == "insufficient_quota":
        return EngineError(f"{where}: {quoted}; check the address (most end in /v1), the model's name and the account")
    if status == 429 or (not filtered and (status in {408, 409, 425} or status >= 500)):
        after = retry_after(error.response.headers, now=datetime.now(UTC))
        if after > LONGEST_WAIT:
            return EngineError(
                f"{where}: requests a wait of {after:.0f} s ({status}); run the same command again after that"
            )
        return RetryableError(f"{where}: {quoted}", after=after, busy=after > 0 or status in {429, 503})
    hint = "" if filtered else "; see docs/serving.md for what each server supports"
    return RejectedError(f"{where}: refused: {quoted}{hint}", filtered=filtered)


def retry_after(headers: Mapping[str, str], *, now: datetime) -> float:
    """Parse a `Retry-After` header (seconds or a date) into seconds; return 0 without one.

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
