"""Which conversations a chat template supports: some refuse a role, others leave out what they do not know."""

from __future__ import annotations

from collections.abc import Sequence

from derta.chat.templates import ChatFormat
from derta.chat.turns import answer_head
from derta.errors import ModelError
from derta.messages import Message, Tools

_MARK = " derta-mark-7319"


class TemplateSupport:
    """Faults of conversations with a chat template.

    A conversation without tools is checked once for its sequence of roles. With tools each one is rendered, because
    templates check the form of definitions, calls and results.
    """

    def __init__(self, chat: ChatFormat) -> None:
        self._chat = chat
        self._faults: dict[tuple[object, ...], str | None] = {}

    def fault(self, messages: Sequence[Message], tools: Tools = None) -> str | None:
        """Return why the template does not support a conversation before an answer, or None if it does."""
        parts = tuple((one.role, one.is_text, one.tool_calls is not None) for one in messages)
        has_tools = tools is not None or any(one.role == "tool" or one.tool_calls for one in messages)
        key = (parts, tools is not None)
        if has_tools and self._faults.get(key) is None:
            try:
                answer_head(self._chat, messages, tools=tools)
            except ModelError as error:
                return str(error)
        if key not in self._faults:
            self._faults[key] = _fault(self._chat, messages, tools)
        return self._faults[key]


def _fault(chat: ChatFormat, messages: Sequence[Message], tools: Tools) -> str | None:
    try:
        text = answer_head(chat, messages, tools=tools).text
    except ModelError as error:
        return str(error)
    part = _left_out(chat, messages, tools, text)
    return None if part is None else f"the chat template leaves out {part}; set another `template`"


def _left_out(chat: ChatFormat, messages: Sequence[Message], tools: Tools, text: str) -> str | None:
    """Return a part of a conversation without which its text is the same, or None."""
    for index, message in enumerate(messages):
        if message.is_text and text == _changed(chat, messages, index, message.content + _MARK, tools):
            return f"messages of role {message.role}"
    for index, message in enumerate(messages):
        if message.tool_calls and text == _changed(chat, messages, index, None, tools):
            return "tool_calls"
    if tools and text == _text(chat, messages, None):
        return "tools"
    return None


def _changed(
    chat: ChatFormat, messages: Sequence[Message], index: int, content: str | None, tools: Tools
) -> str | None:
    """Return the text with another content of a message, or by default without its tool calls."""
    change = {"tool_calls": None} if content is None else {"content": content}
    changed = messages[index].model_copy(update=change)
    return _text(chat, [*messages[:index], changed, *messages[index + 1 :]], tools)


def _text(chat: ChatFormat, messages: Sequence[Message], tools: Tools) -> str | None:
    """Return the text of a conversation before an answer, or None if the template refuses it."""
    try:
        return answer_head(chat, messages, tools=tools).text
    except ModelError:
        return None
