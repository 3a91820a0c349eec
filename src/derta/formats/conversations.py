"""Conversations whose last message is the reply: OpenAI's `messages` and ShareGPT's `conversations`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from derta.columns import REPLY
from derta.errors import DataError
from derta.sources import Row

_SHAREGPT = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}


def is_conversation(values: Mapping[str, Any]) -> bool:
    """Return whether a row has a conversation and no reply besides it."""
    lists = (values.get("messages"), values.get("conversations"))
    return any(isinstance(one, list) for one in lists) and not any(values.get(name) is not None for name in REPLY)


def conversation_rows(values: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Yield the row of a conversation: the reply is the last message, the assistant's.

    >>> turns = [{"from": "human", "value": "Bread?"}, {"from": "gpt", "value": "Mix."}]
    >>> [row["response"] for row in conversation_rows({"conversations": turns}, "a:1")]
    ['Mix.']
    """
    name = "messages" if isinstance(values.get("messages"), list) else "conversations"
    messages = [_openai_message(one) for one in cast("list[Any]", values[name])]
    last = messages[-1] if messages else None
    if not isinstance(last, dict) or cast("dict[str, Any]", last).get("role") != "assistant":
        raise DataError(
            f"{where}: {name}: expected an assistant's message at the end, or a column {' or '.join(REPLY)}, got "
            f"{'no messages' if last is None else str(last)[:60]!r}; add the reply"
        )
    here = Row(f"{where}: {name}[{len(messages) - 1}]", last)
    others = {key: value for key, value in values.items() if key != name}
    yield others | {"messages": messages[:-1], "response": message_text(here)}


def _openai_message(message: Any) -> Any:
    """Return a message of ShareGPT as one of OpenAI; others are unchanged."""
    fields = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
    if not {"from", "value"} <= fields.keys():
        return message
    return {"role": _SHAREGPT.get(str(fields["from"]), fields["from"]), "content": fields["value"]}


def message_text(message: Row) -> str:
    """Return the text of a message: a text, or the texts of its parts; parts of a thought are not part of the answer.

    The text of a message that only calls tools is empty.

    >>> message_text(Row("a:1", {"role": "user", "content": [{"type": "text", "text": "Bread?"}]}))
    'Bread?'

    Raises:
        DataError: the content is something else, such as an image.
    """
    fields = cast("dict[str, Any]", message.value) if isinstance(message.value, dict) else {}
    content = fields.get("content")
    if content is None and fields.get("tool_calls"):
        return ""
    if isinstance(content, str):
        return content
    parts = cast("list[Any]", content) if isinstance(content, list) else [content]
    texts = [_part_text(part, message.where) for part in parts]
    return "".join(text for text in texts if text is not None)


def _part_text(part: Any, where: str) -> str | None:
    if isinstance(part, dict):
        fields = cast("dict[str, Any]", part)
        if fields.get("type") in {"reasoning", "thinking"}:
            return None
        if isinstance(fields.get("text"), str):
            return fields["text"]
    raise DataError(
        f"{where}: content: expected text or parts with text, got {str(part)[:40]!r}; fix or remove the row"
    )
