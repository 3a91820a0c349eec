"""Chat templates and tokenization: prompt and response token ids, BOS and EOS handling, and refusal tokens."""

from derta.chat.encoding import (
    Turn,
    encode_after,
    encode_continuation,
    encode_prompt,
    encode_turn,
    prompt_text,
    turn_span,
)
from derta.chat.formats import chat_format
from derta.chat.refusals import RefusalTokens, refusal_tokens, says_sorry
from derta.chat.templates import SHIPPED_TEMPLATES, ChatFormat, read_template

__all__ = [
    "SHIPPED_TEMPLATES",
    "ChatFormat",
    "RefusalTokens",
    "Turn",
    "chat_format",
    "encode_after",
    "encode_continuation",
    "encode_prompt",
    "encode_turn",
    "prompt_text",
    "read_template",
    "refusal_tokens",
    "says_sorry",
    "turn_span",
]
