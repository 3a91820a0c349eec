"""Validation of a tokenizer with its chat template, and the tokens that close an assistant turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from derta.chat.encoding import encode
from derta.chat.templates import SHIPPED_TEMPLATES, ChatFormat, read_template, render
from derta.errors import ModelError
from derta.records import Message
from derta.template_probe import check_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTINEL = "derta-sentinel-7319"


def chat_format(
    tokenizer: PreTrainedTokenizerBase, *, template: str = "auto", template_kwargs: Mapping[str, Any] | None = None
) -> ChatFormat:
    """Validate a tokenizer and return it with its chat template and closing tokens.

    A template that is not shipped with derta is untrusted: it is tried in a child process first.

    Raises:
        ModelError: a slow tokenizer, no EOS token, no template, a template that does not end, or a template error on a
            plain conversation.
    """
    where = f"tokenizer {tokenizer.name_or_path!r}"
    if not tokenizer.is_fast:
        raise ModelError(f"expected a fast tokenizer (character offsets), got {where}; convert it with transformers")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"expected an EOS token in {where}, found none; set `eos_token` in its tokenizer_config.json")
    bound = ChatFormat(tokenizer, read_template(template, tokenizer), dict(template_kwargs or {}))
    if template not in SHIPPED_TEMPLATES:
        check_template(bound.template, variables={**tokenizer.special_tokens_map, **bound.template_kwargs}, where=where)
    messages = [Message(role="user", content="Hello."), Message(role="assistant", content=_SENTINEL)]
    _, sentinel, after = render(bound, messages, add_generation_prompt=False).partition(_SENTINEL)
    if not sentinel:
        raise ModelError(f"the chat template of {where} drops the assistant's text; set another `template`")
    closing = after.strip() or str(tokenizer.eos_token)
    closing_ids = tuple(encode(tokenizer, closing))
    special_ids = set(tokenizer.all_special_ids)
    stop_ids = frozenset({int(str(tokenizer.eos_token_id)), *(token for token in closing_ids if token in special_ids)})
    return ChatFormat(tokenizer, bound.template, bound.template_kwargs, closing_ids, stop_ids)
