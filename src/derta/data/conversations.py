"""Turns of conversations in published datasets: OpenAI messages, ShareGPT turns, transcripts and cells of tables."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, cast
from warnings import catch_warnings, simplefilter

from derta.columns import CONTEXT
from derta.data.fields import DroppedRowError, name_of, text_of, value_of
from derta.errors import DataError, kind_of
from derta.files import parse_json, parse_record
from derta.records import Message
from derta.sources import Row, fields_of

ROLES: Mapping[str, str] = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "bing", "bard"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation"), "tool"),
}
"""Roles of messages by their names in datasets, in lower case."""
_MAX_LITERAL = 2**20
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def as_turns(value: object) -> list[dict[str, Any]] | None:
    """Return the turns in a value as objects, or None if it is a text or null.

    Turns are a list of objects, one object, or an object of lists (as `datasets` writes a sequence of objects); in a
    table they may be a text of JSON or of Python's `repr`.

    >>> as_turns({"role": ["user", "assistant"], "content": ["Bread?", "Flour."]})
    [{'role': 'user', 'content': 'Bread?'}, {'role': 'assistant', 'content': 'Flour.'}]
    >>> as_turns('[{"from": "human", "value": "Bread?"}]'), as_turns("[1] is a footnote")
    ([{'from': 'human', 'value': 'Bread?'}], None)
    """
    if isinstance(value, str):
        turns = as_turns(parsed) if not isinstance(parsed := parse_cell(value), str) else None
        return turns if turns and all("role" in turn or "from" in turn for turn in turns) else None
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        columns = [cast("list[Any]", column) for column in fields.values() if isinstance(column, list)]
        if len(columns) < len(fields) or len({len(column) for column in columns}) > 1:
            return [dict(fields)]
        return [dict(zip(fields, cells, strict=True)) for cells in zip(*columns, strict=True)]
    if isinstance(value, list) and all(isinstance(turn, dict) for turn in cast("list[Any]", value)):
        return cast("list[dict[str, Any]]", value)
    return None


def parse_cell(text: str) -> object:
    """Return the list or object that the text of a table's cell has, or else the text.

    The text is data: as JSON or a Python literal it is parsed, never evaluated.

    >>> parse_cell("{'baking': True}"), parse_cell("[sic]")
    ({'baking': True}, '[sic]')
    """
    if text.lstrip()[:1] not in ("[", "{"):
        return text
    with suppress(ValueError, RecursionError):
        return parse_json(text)
    if len(text) <= _MAX_LITERAL:
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError), catch_warnings():
            simplefilter("ignore")  # of invalid escape sequences
            return ast.literal_eval(text.strip())
    return text


def messages_of(turns: Sequence[Mapping[str, Any]], *, where: str) -> list[Message]:
    """Return turns as messages; their text may be a list of parts.

    >>> parts = [{"type": "text", "text": "Bread"}, {"type": "text", "text": "?"}]
    >>> turns = [{"role": "user", "content": parts}, {"from": "gpt", "value": "Flour."}]
    >>> [(message.role, message.content) for message in messages_of(turns, where="a.jsonl:1")]
    [('user', 'Bread?'), ('assistant', 'Flour.')]

    Raises:
        DroppedRowError: A turn has an unknown role, or a part that is no text.
        DataError: A turn has no role or text.
    """
    return [_message(turn, where=f"{where}[{index}]") for index, turn in enumerate(turns)]


def _message(turn: Mapping[str, Any], *, where: str) -> Message:
    role_key, text_key = ("from", "value") if "from" in turn and "role" not in turn else ("role", "content")
    calls = turn.get("tool_calls") or None
    for key in (role_key, text_key):
        if key not in turn and not (key == text_key and calls):
            raise DataError(f"{where}: expected a field {key!r}, got {', '.join(turn) or 'none'}; fix the row")
    role = ROLES.get(str(turn[role_key]).strip().lower())
    if role is None:
        raise DroppedRowError("unknown_role")
    fields: dict[str, object] = {"role": role, "content": _text_of_content(turn.get(text_key), where=where)}
    if calls:
        fields["tool_calls"] = calls
    if role == "tool":
        fields |= {key: turn[key] for key in ("tool_call_id", "name") if turn.get(key) is not None}
    return parse_record(Message, fields, where=where)


def _text_of_content(content: object, *, where: str) -> str:
    """Return the text of a message, stripped: a text, or the texts of its parts, joined."""
    if isinstance(content, list):
        texts = [_text_of_part(part, where=where) for part in cast("list[Any]", content)]
        return "".join(texts).strip()
    if content is not None and not isinstance(content, str):
        raise DataError(f"{where}: expected text or parts, got {kind_of(content)}; fix the row")
    return (content or "").strip()


def _text_of_part(part: object, *, where: str) -> str:
    if isinstance(part, str):
        return part
    fields = cast("Mapping[str, Any]", part) if isinstance(part, Mapping) else {}
    text = fields.get("text")
    if fields.get("type", "text") != "text":
        raise DroppedRowError("part_is_no_text")
    if not isinstance(text, str):
        raise DataError(f"{where}: expected a part {{type: text, text: ...}}, got {str(part)[:40]!r}; fix the row")
    return text


def is_transcript(text: str) -> bool:
    r"""Return whether a text is a conversation as in Anthropic's HH: `Human: … Assistant: …`, each in a paragraph.

    >>> is_transcript("\n\nHuman: Bread?\n\nAssistant: Flour."), is_transcript("Human: is it a word?")
    (True, False)
    """
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def transcript_messages(text: str) -> list[Message]:
    r"""Return the messages of a transcript; a last turn of the assistant without text is left out.

    >>> [message.content for message in transcript_messages("\n\nHuman: Bread?\n\nAssistant: Flour.")]
    ['Bread?', 'Flour.']
    """
    _, *parts = _SPEAKER.split(text.strip())
    turns = zip(parts[::2], parts[1::2], strict=True)
    messages = [Message(role="user" if name == "Human" else "assistant", content=said.strip()) for name, said in turns]
    return messages[:-1] if messages and messages[-1].role == "assistant" and not messages[-1].content else messages


SYSTEM = ("system", "system_prompt")
HISTORY = "history"
EARLIER = (*SYSTEM, HISTORY)
"""Columns of what is before a request in its conversation; an `instruction` also has the columns `CONTEXT`."""


def instruction_of(row: Row) -> str:
    r"""Return the request of an Alpaca or Dolly row: the instruction, followed by its input or context if there is one.

    >>> instruction_of(Row("a.json[0]", {"instruction": "Sort these.", "input": "b, a"}))
    'Sort these.\n\nb, a'
    """
    fields = fields_of(row)
    texts = [text_of(row, name) for name in ("instruction", *CONTEXT) if name in fields]
    return "\n\n".join(text for text in texts if text) if texts[0] else ""


def request_messages(row: Row, names: Sequence[str]) -> list[Message]:
    """Return the conversation up to a request: a system prompt, earlier turns (`history`) and the request's column.

    The column may have a text, a transcript or turns, which may be a whole conversation.

    >>> fields = {"instruction": "And rye?", "system": "Be brief.", "history": [["Bread?", "Flour."]]}
    >>> [message.content for message in request_messages(Row("a.json[0]", fields), ["instruction"])]
    ['Be brief.', 'Bread?', 'Flour.', 'And rye?']

    Raises:
        DroppedRowError: `two_system_prompts`, in its column and in the turns; see also `messages_of`.
        DataError: None of the columns is in the row, or a value has another type.
    """
    fields, name = fields_of(row), name_of(row, names)
    messages = column_messages(row, name, role="user")
    messages = [*_history(row), *messages] if HISTORY in fields else messages
    system = next((text for key in SYSTEM if key in fields and (text := text_of(row, key))), "")
    first = messages[0] if messages and messages[0].role == "system" else None
    if first is not None and system not in ("", first.content):
        raise DroppedRowError("two_system_prompts")
    return [Message(role="system", content=system), *messages] if system and first is None else messages


def is_plain(value: object) -> bool:
    """Return whether the value of a column is a text, neither turns nor a transcript."""
    return isinstance(value, str) and as_turns(value) is None and not is_transcript(value)


def column_messages(row: Row, name: str, *, role: Literal["user", "assistant"]) -> list[Message]:
    """Return the messages in a column: turns, a transcript, or a text, which is a message of the role."""
    turns = as_turns(value_of(row, name))
    if turns is not None:
        return messages_of(turns, where=f"{row.where}: {name}")
    text = instruction_of(row) if name == "instruction" else text_of(row, name)
    return transcript_messages(text) if is_transcript(text) else [Message(role=role, content=text)]


def _history(row: Row) -> list[Message]:
    """Return the messages of earlier turns: pairs of a question and its answer."""
    value = fields_of(row)[HISTORY]
    pairs = parse_cell(value) if isinstance(value, str) and value.strip() else value or []
    if not isinstance(pairs, list):
        raise DataError(f"{row.where}: history: expected a list of earlier turns, got {str(value)[:40]!r}; fix the row")
    messages: list[Message] = []
    for index, pair in enumerate(cast("list[Any]", pairs)):
        match pair:
            case [str(question), str(answer)]:
                messages.append(Message(role="user", content=question.strip()))
                messages.append(Message(role="assistant", content=answer.strip()))
            case _:
                raise DataError(
                    f"{row.where}: history[{index}]: expected a question and its answer, got {str(pair)[:40]!r}; fix it"
                )
    return messages
