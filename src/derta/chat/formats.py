"""Validation of a tokenizer with its chat template, and what its format needs: closing and stop tokens, thoughts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from derta.chat.encoding import encode
from derta.chat.logs import warn_once
from derta.chat.templates import SHIPPED_TEMPLATES, ChatFormat, fix_date, read_template, render
from derta.chat.turns import answer_head
from derta.config import RowConfig
from derta.errors import ModelError
from derta.messages import Message
from derta.template_probe import check_template
from derta.thoughts import Thought, thought_at_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTINEL = "derta-sentinel-7319"
_THOUGHT = "derta-thought-7319"
_USER = {"role": "user", "content": "Hello."}
_ANSWER = {"role": "assistant", "content": _SENTINEL}
_LAST_USER = {"role": "user", "content": "derta-user-7319"}
_SEGMENT = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{1,20}\]|[^<\[]+|.", re.S)
"""Markers such as `<|im_end|>` and `[/INST]`, and the text between them."""


def chat_format(
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
    date: str = RowConfig.template_date,
    thinking: bool = True,
) -> ChatFormat:
    """Validate a tokenizer and return it with its chat template and closing tokens.

    A template that is not shipped with derta is untrusted: it is tried in a child process first.

    Args:
        tokenizer: A fast tokenizer.
        template: `auto`, the name of one of the tokenizer's templates, `paper`, `paper_eval`, or a Jinja file.
        template_kwargs: Additional variables of the template.
        date: The date of a template that writes today's, as YYYY-MM-DD.
        thinking: Whether a model that thinks starts with its thought, or after an empty one.

    Raises:
        ModelError: a slow tokenizer, no EOS token, no template, a template that does not end, a template error on a
            plain conversation, or a generation prompt that contradicts a finished turn.
    """
    where = f"tokenizer {tokenizer.name_or_path!r}"
    if not tokenizer.is_fast:
        raise ModelError(f"expected a fast tokenizer (character offsets), got {where}; convert it with transformers")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"expected an EOS token in {where}, found none; set `eos_token` in its tokenizer_config.json")
    source = read_template(template, tokenizer)
    kwargs = dict(template_kwargs or {})
    if template not in SHIPPED_TEMPLATES:
        check_template(source, variables={**tokenizer.special_tokens_map, **kwargs}, where=where)
    dated = fix_date(source, date)
    if dated != source:
        warn_once(f"the chat template of {where} writes a date: {date} is used (template_date)")
    chat = ChatFormat(tokenizer, dated, kwargs, thinking=thinking, markup=_markup(tokenizer, source))
    chat = replace(chat, thought=_thought(chat))
    head = answer_head(chat, [Message.model_validate(_USER)]).text
    lead = head.removeprefix(render(chat, [_USER], add_generation_prompt=True))
    inner = lead + (chat.thought.open + chat.thought.close if chat.thought else "")
    closing = _closing(chat) or str(tokenizer.eos_token)
    closing_ids = tuple(encode(tokenizer, closing))
    stop_ids = frozenset({int(str(tokenizer.eos_token_id)), *_control_ids(tokenizer, closing_ids, inside=inner)})
    if not stop_ids.intersection(closing_ids):
        warn_once(
            f"the chat template of {where} ends a turn with {closing!r}, no control token: replies only stop at the "
            "token limit"
        )
    return replace(chat, lead=lead, closing=closing, closing_ids=closing_ids, stop_ids=stop_ids)


def _thought(chat: ChatFormat) -> Thought | None:
    """Return the format of the thoughts that the generation prompt leaves room for, from a rendering with a thought."""
    start = render(chat, [_USER], add_generation_prompt=True)
    fields = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _THOUGHT)
    try:
        finished = render(chat, [_USER, {**_ANSWER, **fields}], add_generation_prompt=False)
    except ModelError:
        finished = ""
    tail = thought_at_end(start)
    before, mark, after = finished.partition(_THOUGHT)
    close, _, _ = after.partition(_SENTINEL)
    if tail is not None:
        if tail.closed:
            return None
        close = close if mark and tail.close in close else f"\n{tail.close}\n\n"
        return Thought("", close, tail.close)
    if not mark or not before.startswith(start):
        return None
    plain = render(chat, [_USER, _ANSWER], add_generation_prompt=False).partition(_SENTINEL)[0]
    lead = plain.removeprefix(start).strip()
    # where the answer has a header of its own (harmony), that header ends the thought in a reply
    marker = lead if lead and close.rstrip().endswith(lead) and before[len(start) :].strip() not in lead else close
    return Thought(before[len(start) :], close, marker.strip())


def _closing(chat: ChatFormat) -> str:
    """Return the text that closes an assistant turn, without the header of the next turn that some templates add."""
    tail = render(chat, [_USER, _ANSWER], add_generation_prompt=False).rpartition(_SENTINEL)[2]
    try:
        longer = render(chat, [_USER, _ANSWER, _LAST_USER], add_generation_prompt=True)
    except ModelError:
        return _stripped(tail)
    between = longer.rpartition(_SENTINEL)[2].partition(_LAST_USER["content"])[0]
    before_user = _SEGMENT.findall(longer.partition(_USER["content"])[0])
    ours, theirs = _SEGMENT.findall(tail), _SEGMENT.findall(between)
    shared = _shared(ours, theirs)
    if len(shared) < min(len(ours), len(theirs)) and theirs[len(shared)] in before_user:
        # both go on with the header of a turn; its first marker may be the same for all roles
        place = len(before_user) - 1 - before_user[::-1].index(theirs[len(shared)])
        if shared and place and before_user[place - 1] == shared[-1]:
            shared.pop()
    return _stripped("".join(shared)) or _stripped(tail)


def _stripped(closing: str) -> str:
    """Return a closing text without the white space behind it; what precedes its token belongs to it."""
    return closing.rstrip()


def _shared(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    length = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    return list(ours[:length])


def _control_ids(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], *, inside: str) -> list[int]:
    """Return the added tokens among these ids, without those that also occur inside of an assistant turn."""
    added = tokenizer.added_tokens_decoder
    return [token for token in token_ids if token in added and added[token].content not in inside]


def _markup(tokenizer: PreTrainedTokenizerBase, template: str) -> re.Pattern[str] | None:
    """Return the pattern of the tokenizer's control tokens: the special ones, and those that the template writes."""
    texts = {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if len(token.content.strip()) > 1 and (token.special or token.content in template)
    }
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True)))) if texts else None
