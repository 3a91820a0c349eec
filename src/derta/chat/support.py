"""Which conversations a chat template supports: some refuse a role, others leave out what they do not know."""

from __future__ import annotations

from collections.abc import Sequence

from derta.chat.templates import ChatFormat
from derta.chat.turns import answer_head, generation_prompt
from derta.errors import ModelError
from derta.messages import Message, Tools

_MARK = " derta-mark-7319"
_Shape = tuple[tuple[tuple[str, bool, bool], ...], bool]


class TemplateSupport:
    """Faults of conversations with a chat template.

    A conversation without tools is checked once for its sequence of roles. With tools each one is rendered, because
    templates check the form of definitions, calls and results.
    """

    def __init__(self, chat: ChatFormat) -> None:
        self._chat = chat
        self._refused: dict[_Shape, str | None] = {}
        self._left_out: dict[_Shape, str | None] = {}

    def fault(self, messages: Sequence[Message], tools: Tools = None) -> str | None:
        """Return why the template does not support a conversation before an answer, or None if it does."""
        shape = _shape(messages, tools)
        if shape not in self._refused or _has_tools(messages, tools):
            self._refused[shape] = self._refusal(messages, tools)
        return self._refused[shape] or self.left_out(messages, tools)

    def left_out(self, messages: Sequence[Message], tools: Tools = None) -> str | None:
        """Return which part of a conversation the template leaves out, or None if it writes all.

        Raises:
            ModelError: the template refuses the conversation.
        """
        shape = _shape(messages, tools)
        if shape not in self._left_out:
            part = _left_out(self._chat, messages, tools)
            self._left_out[shape] = part and f"the chat template leaves out {part}; set another `template`"
        return self._left_out[shape]

    def _refusal(self, messages: Sequence[Message], tools: Tools) -> str | None:
        try:
            answer_head(self._chat, messages, tools=tools)
        except ModelError as error:
            return str(error)
        return None


def _has_tools(messages: Sequence[Message], tools: Tools) -> bool:
    return bool(tools) or any(message.role == "tool" or message.tool_calls for message in messages)


def _shape(messages: Sequence[Message], tools: Tools) -> _Shape:
    return tuple((one.role, one.is_text, bool(one.tool_calls)) for one in messages), bool(tools)


def _left_out(chat: ChatFormat, messages: Sequence[Message], tools: Tools) -> str | None:
    """Return a part of a conversation without which its text is the same, or None."""
    text = generation_prompt(chat, messages, tools=tools).text
    for index, message in enumerate(messages):
        marked = message.model_copy(update={"content": message.content + _MARK})
        if message.is_text and text == _text(chat, messages, index, marked, tools):
            return f"messages of role {message.role}"
    for index, message in enumerate(messages):
        without = message.model_copy(update={"tool_calls": None})
        if message.tool_calls and text == _text(chat, messages, index, without, tools):
            return "tool_calls"
    if tools and text == _text(chat, messages, 0, messages[0], None):
        return "tools"
    return None


def _text(chat: ChatFormat, messages: Sequence[Message], index: int, message: Message, tools: Tools) -> str | None:
    """Return the text of a conversation with another message at an index; None if the template refuses it."""
    changed = [*messages[:index], message, *messages[index + 1 :]]
    try:
        return generation_prompt(chat, changed, tools=tools).text
    except ModelError:
        return None
