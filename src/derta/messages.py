"""Messages of a conversation, and the training data that consist of them: triples and examples.

Tool calls, tool results and tool definitions have OpenAI's JSON format.
"""

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


def in_context(messages: Sequence[Message]) -> str:
    r"""Return the user's turns as one text.

    >>> in_context([Message(role="user", content=text) for text in ("What is dough?", "And bread?")])
    'What is dough?\n\nAnd bread?'
    """
    return "\n\n".join(message.content for message in messages if message.role == "user")


Context = Annotated[tuple[Message, ...], Field(exclude_if=is_absent)]
"""The messages before a request: a system prompt, earlier turns with tool calls and results."""


class Triple(Record):
    """A harmful query with a safe and a harmful response (the paper's q, r, r-hat).

    The query is a user message after `messages`, the context; most triples have none. No message of the context has
    labels of its own text. `harmful_turns` are the indices of its assistant messages that are harmful: RTO teaches to
    break off there too.

    >>> triple = Triple(query="How do I brew it?", safe="Sorry, I can't help.", harmful="Boil the roots.")
    >>> triple.id == Triple(**triple.model_dump()).id
    True
    """

    query: Text
    safe: Text
    harmful: Text
    category: str | None = None
    source: str | None = None
    messages: Context = ()
    harmful_turns: Annotated[tuple[int, ...], Field(exclude_if=is_absent)] = ()
    tools: Tools = None

    @model_validator(mode="after")
    def _has_valid_context(self) -> Triple:
        if any(message.is_empty for message in self.messages):
            raise ValueError("messages must not be empty")
        for turn in self.harmful_turns:
            if not (0 <= turn < len(self.messages) and self.messages[turn].role == "assistant"):
                raise ValueError(f"harmful_turns must be indices of assistant messages, {turn} is not")
            if not self.messages[turn].content.strip():
                raise ValueError(f"harmful_turns must be indices of messages with text, {turn} has none")
        return self

    @property
    def id(self) -> str:
        """Hash of the content. It seeds the row's random draws, so they do not depend on its position in a file."""
        turns = [f"harmful\x1e{turn}" for turn in self.harmful_turns]
        return short_hash(self.query, self.safe, self.harmful, *context_keys(self.messages, self.tools), *turns)

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The context and the query, as the messages before a response."""
        return (*self.messages, Message(role="user", content=self.query))

    @property
    def in_context(self) -> str:
        """The query with the user's earlier turns, for a reader who does not see the conversation."""
        return in_context(self.conversation)


class Example(Record):
    """A helpful training example: a conversation that ends with an assistant message, or raw text.

    Only the last message of a conversation has labels. A raw `text` is formatted by no template, and all of its tokens
    and the EOS token after it have labels.

    >>> question, answer = Message(role="user", content="Bread?"), Message(role="assistant", content="Bake it.")
    >>> Example(messages=(question, answer)).messages[-1].content, Example(text="A guide to bread.").messages
    ('Bake it.', ())
    """

    messages: tuple[Message, ...] = ()
    text: Text | None = None
    source: str | None = None
    tools: Tools = None

    @model_validator(mode="after")
    def _has_one_form(self) -> Example:
        if self.text is not None:
            if self.messages or self.tools:
                raise ValueError("an example carries messages or a raw text, not both")
            return self
        if len(self.messages) < 2 or self.messages[-1].role != "assistant":
            raise ValueError("messages must end with an assistant's answer to another message")
        if any(message.is_empty for message in self.messages) or not self.messages[-1].content.strip():
            raise ValueError("messages must not be empty")
        return self

    @property
    def id(self) -> str:
        """Hash of the content, as in `Triple.id`."""
        if self.text is not None:
            return short_hash("text", self.text)
        return short_hash(*context_keys(self.messages, self.tools))
