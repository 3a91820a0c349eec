"""Text of a conversation up to an assistant's answer, exactly as its chat template writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from derta.chat.templates import ChatFormat, render
from derta.errors import ModelError
from derta.messages import Message, Tools
from derta.records import Prompt
from derta.thoughts import answer_start, lead_of

_MARK = "derta-sentinel-7319"
Span = tuple[int, int]


class Text(NamedTuple):
    """Text with the spans of characters that are content, not written by the template.

    Only contents with markup have a span: the others are the same with and without one.
    """

    text: str
    spans: tuple[Span, ...] = ()


def content_text(text: str) -> Text:
    """Return a text that is content: markup in it gives no control tokens."""
    return Text(text, ((0, len(text)),))


def join_texts(*texts: Text) -> Text:
    """Return several texts as one."""
    joined = Text("")
    for part in texts:
        start = len(joined.text)
        spans = tuple((start + first, start + last) for first, last in part.spans)
        joined = Text(joined.text + part.text, joined.spans + spans)
    return joined


def has_markup(chat: ChatFormat, text: str) -> bool:
    """Return whether a text contains the text of a control token."""
    return chat.markup is not None and chat.markup.search(text) is not None


def render_text(
    chat: ChatFormat, messages: Sequence[Message], *, add_generation_prompt: bool, tools: Tools = None
) -> Text:
    """Render a conversation, and locate the contents that have markup.

    Raises:
        ModelError: the template refuses the conversation.
    """
    contents: dict[str, str] = {}
    dicts: list[Mapping[str, Any]] = []
    for index, message in enumerate(messages):
        fields = message.model_dump(mode="json")
        if has_markup(chat, message.content):
            core = message.content.strip()
            mark = f"{_MARK}-{index}."
            contents[mark] = core
            fields["content"] = message.content.replace(core, mark, 1)
        dicts.append(fields)
    text = render(chat, dicts, add_generation_prompt=add_generation_prompt, tools=tools)
    return _fill(text, contents)


def _fill(text: str, contents: Mapping[str, str]) -> Text:
    """Replace marks by contents, and return the spans of these."""
    if not contents:
        return Text(text)
    parts = re.split("(" + "|".join(map(re.escape, contents)) + ")", text)
    filled = ""
    spans: list[Span] = []
    for part in parts:
        if part in contents:
            spans.append((len(filled), len(filled) + len(contents[part])))
        filled += contents.get(part, part)
    return Text(filled, tuple(spans))


def generation_prompt(chat: ChatFormat, messages: Sequence[Message], *, tools: Tools = None) -> Text:
    """Return the conversation with the template's generation prompt, and no more."""
    return render_text(chat, messages, add_generation_prompt=True, tools=tools)


def answer_head(chat: ChatFormat, messages: Sequence[Message], *, tools: Tools = None) -> Text:
    """Return the text before the assistant's answer: the generation prompt, and what the template writes after it.

    Of a reasoning model this includes an empty thought, if the template writes one or the generation prompt opens one.

    Raises:
        ModelError: the template refuses the conversation, or its generation prompt contradicts a finished turn.
    """
    start = generation_prompt(chat, messages, tools=tools)
    finished = render_text(
        chat, (*messages, Message(role="assistant", content=_MARK)), add_generation_prompt=False, tools=tools
    )
    head, mark, _ = finished.text.rpartition(_MARK)
    if not mark:
        raise ModelError("the chat template drops the assistant's text; set another `template`")
    lead = lead_of(start.text, head, thought=chat.thought)
    if lead is None:
        raise ModelError(
            f"expected the generation prompt of the chat template to begin a finished turn, got {start.text[-40:]!r} "
            f"and {head[-40:]!r}; set `template_kwargs` (such as enable_thinking) so that they agree, or another "
            "`template`"
        )
    return start._replace(text=start.text + lead)


def answer_content(chat: ChatFormat, messages: Sequence[Message], answer: str, *, tools: Tools = None) -> str:
    """Return an answer as the template writes it: some templates remove white space at its ends."""
    core = answer.strip()
    if core == answer or not core:
        return answer
    marked = Message(role="assistant", content=answer.replace(core, _MARK, 1))
    # a plain text at the other end shows where the answer's own white space ends
    plain = Message(role="assistant", content=_MARK)
    sides = [
        render_text(chat, (*messages, message), add_generation_prompt=False, tools=tools).text.rpartition(_MARK)
        for message in (marked, plain)
    ]
    (before, _, after), (plain_before, _, plain_after) = sides
    leading = before[len(plain_before) :] if before.startswith(plain_before) else ""
    trailing = after[: len(after) - len(plain_after)] if after.endswith(plain_after) else ""
    return leading + core + trailing


def content_span(chat: ChatFormat, messages: Sequence[Message], index: int, *, head: str, tools: Tools = None) -> Span:
    """Return the span of a message in the text before an answer.

    Raises:
        ModelError: the template drops or rewrites the message.
    """
    core = messages[index].content.strip()
    marked = [*messages]
    marked[index] = messages[index].model_copy(update={"content": messages[index].content.replace(core, _MARK, 1)})
    before, mark, after = answer_head(chat, marked, tools=tools).text.partition(_MARK)
    if not mark or before + core + after != head:
        raise ModelError(
            f"expected the chat template to write message {index} of a conversation as it is, got "
            f"{head[len(before) : len(head) - len(after)][:40]!r}; set another `template`"
        )
    return len(before), len(before) + len(core)


def prompt_text(chat: ChatFormat, prompt: Prompt) -> Text:
    """Return the text that a model continues: raw text, or a conversation with a prefill.

    Without a prefill it ends where generation starts: before the thought of a model that thinks, else where the
    answer starts. A prefill continues the answer, or the thought. The text after the generation prompt is that of a
    plain conversation: a generation prompt is what the model receives in use, whatever a finished turn looks like.

    Raises:
        ModelError: the template refuses the conversation, or has no thoughts to prefill.
    """
    if prompt.mode == "raw":
        return content_text(prompt.text or "")
    messages = prompt.messages or ()
    if prompt.prefill and prompt.prefill_in == "thought":
        return join_texts(thought_head(chat, messages, tools=prompt.tools), content_text(prompt.prefill))
    start = generation_prompt(chat, messages, tools=prompt.tools)
    if prompt.prefill or chat.thought is None or not chat.thinking:
        return join_texts(start, Text(chat.lead), content_text(prompt.prefill or ""))
    return start


def thought_head(chat: ChatFormat, messages: Sequence[Message], *, tools: Tools = None) -> Text:
    """Return the text before the thought of an assistant's turn.

    Raises:
        ModelError: the template refuses the conversation, or opens no thought.
    """
    if chat.thought is None:
        raise ModelError(
            "expected a chat template that opens a thought, got one that does not; use a reasoning model, or set "
            "`template_kwargs` so that it thinks"
        )
    return join_texts(generation_prompt(chat, messages, tools=tools), Text(chat.thought.open))


def answer_offset(chat: ChatFormat, prompt: Prompt, reply: str) -> int | None:
    """Return the offset of the answer in a reply to this prompt (see `Reply.answer_at`)."""
    if chat.thought is None or prompt.mode == "raw":
        return None
    in_thought = prompt.prefill_in == "thought" if prompt.prefill else chat.thinking
    if not in_thought:
        return 0
    start = answer_start(reply, marker=chat.thought.marker, is_open=bool(prompt.prefill) or not chat.thought.open)
    return len(reply) if start is None else start


def continuation_head(chat: ChatFormat, prompt: Prompt) -> Text:
    """Return the text before a continuation that is scored: like `prompt_text`, but always after an empty thought."""
    if prompt.mode == "raw" or prompt.prefill:
        return prompt_text(chat, prompt)
    return join_texts(generation_prompt(chat, prompt.messages or (), tools=prompt.tools), Text(chat.lead))
