"""Messages of a conversation, with tool calls, tool results and tool definitions in OpenAI's JSON format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=False, pattern=r"\S")]
Role = Literal["system", "user", "assistant", "tool"]
JsonObject = dict[str, JsonValue]


def is_absent(value: object) -> bool:
    """Return whether an optional field has no value; it is then left out of files and hashes.

    >>> is_absent(None), is_absent(()), is_absent("")
    (True, True, False)
    """
    return value is None or value == ()


Tools = Annotated[tuple[JsonObject, ...] | None, Field(exclude_if=is_absent)]
"""Definitions of the tools that the model may call: JSON objects that the chat template gets unchanged."""


def short_hash(*parts: str) -> str:
    """Compute a content hash of texts: 16 hex digits, the same on every machine.

    >>> short_hash("a", "b") == short_hash("a", "b") != short_hash("ab")
    True
    """
    return blake2b("\x1f".join(parts).encode(), digest_size=8).hexdigest()


class Record(BaseModel):
    """Base class of records: frozen, and unknown fields are a validation error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Return the fields for `repr`, without the optional ones that have no value."""
        optional = {name for name, field in type(self).model_fields.items() if field.exclude_if is not None}
        return (
            (name, value) for name, value in super().__repr_args__() if name not in optional or not is_absent(value)
        )


class Message(Record):
    """One message of a conversation; the chat template gets its fields unchanged.

    `tool_calls` are the calls of an assistant message, whose content may then be empty; `tool_call_id` and `name`
    belong to the message of role `tool` with the result.

    >>> Message(role="user", content="How do I bake bread?").model_dump()
    {'role': 'user', 'content': 'How do I bake bread?'}
    >>> Message(role="assistant", tool_calls=({"function": {"name": "recipes", "arguments": {}}},)).content
    ''
    """

    role: Role
    content: str
    tool_calls: Annotated[tuple[JsonObject, ...] | None, Field(exclude_if=is_absent)] = None
    tool_call_id: Annotated[str | None, Field(exclude_if=is_absent)] = None
    name: Annotated[str | None, Field(exclude_if=is_absent)] = None

    @model_validator(mode="before")
    @classmethod
    def _content_of_a_call(cls, value: Any) -> Any:
        """Complete the content of an assistant message that only calls tools: absent or null in published files."""
        if not isinstance(value, Mapping):
            return value
        fields = cast("Mapping[str, Any]", value)
        return {**fields, "content": ""} if fields.get("tool_calls") and fields.get("content") is None else value

    @model_validator(mode="after")
    def _calls_are_the_assistants(self) -> Message:
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError(f"tool_calls belong to an assistant message, not to one of role {self.role}")
        return self

    @property
    def is_text(self) -> bool:
        """Whether the content is more than white space."""
        return bool(self.content.strip())

    @property
    def is_empty(self) -> bool:
        """Whether the message has nothing to read; the result of a tool may be empty."""
        return not (self.is_text or self.tool_calls or self.role == "tool")

    @property
    def shown(self) -> str:
        """The content, and tool calls as JSON, for people."""
        calls = [json.dumps(call, ensure_ascii=False) for call in self.tool_calls or ()]
        return "\n".join([self.content, *calls] if self.content else calls)

    @property
    def key(self) -> str:
        """Content of the message as one text, for hashes."""
        extra = self.model_dump(mode="json", include={"tool_calls", "tool_call_id", "name"})
        return f"{self.role}\x1e{self.content}" + (f"\x1e{json.dumps(extra, sort_keys=True)}" if extra else "")


def context_keys(messages: Sequence[Message], tools: tuple[JsonObject, ...] | None) -> list[str]:
    """Return the content of messages and tool definitions as texts, for hashes; empty without any."""
    return [message.key for message in messages] + ([f"tools\x1e{json.dumps(tools, sort_keys=True)}"] if tools else [])
