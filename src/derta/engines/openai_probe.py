"""A short request that shows before long work whether a server, key and model work."""

from __future__ import annotations

from dataclasses import replace

from derta.engines.openai_engine import ApiEngine
from derta.errors import EngineError
from derta.protocols import UnansweredError
from derta.records import Message, Prompt

PROBE_SECONDS = 60.0
"""Limit of the request that tests a server before long work."""


def check_answers(engine: ApiEngine, *, raw: bool = False) -> None:
    """Send one short request, so that a server, key or model that does not work is an error before long work.

    Args:
        engine: The engine; each of its servers may answer.
        raw: Request a completion of a text, instead of a chat answer.

    Raises:
        EngineError: no answer within `PROBE_SECONDS`, or all requests would fail. A server that answers, but rejects
            this request, is no error.
    """
    messages = None if raw else (Message(role="user", content="Hello."),)
    mode, text = ("raw", "Hello.") if raw else ("chat", None)
    prompt = Prompt(id="probe", request_id="probe", attack="direct", mode=mode, messages=messages, text=text)
    limits = replace(engine.limits, attempts=3, busy_attempts=6, longest_wait=8.0, patience=PROBE_SECONDS)
    probe = replace(engine, limits=limits, timeout=min(engine.timeout, PROBE_SECONDS))
    try:
        list(probe.generate([prompt], max_new_tokens=1))
    except UnansweredError as error:
        if error.replies[0].unanswered == "failed":
            raise EngineError(
                f"{error.replies[0].reason}; check the server, then run the same command again"
            ) from error
