"""Chat templates and tokenization: prompt and response token ids, BOS and EOS handling, and refusal tokens."""

from derta.chat.decoding import UNFINISHED, decode_continuation, positions_after_space
from derta.chat.encoding import (
    Turn,
    encode_after,
    encode_continuation,
    encode_prompt,
    encode_turn,
    turn_span,
)
from derta.chat.formats import chat_format
from derta.chat.refusals import RefusalTokens, refusal_tokens, says_sorry
from derta.chat.saved import saved_template
from derta.chat.support import TemplateSupport
from derta.chat.templates import SHIPPED_TEMPLATES, ChatFormat, read_template
from derta.chat.thoughts import answer_start, is_empty_thought
from derta.chat.turns import answer_content, answer_head, answer_offset, continuation_head, prompt_text

__all__ = [
    "SHIPPED_TEMPLATES",
    "UNFINISHED",
    "ChatFormat",
    "RefusalTokens",
    "TemplateSupport",
    "Turn",
    "answer_content",
    "answer_head",
    "answer_offset",
    "answer_start",
    "chat_format",
    "continuation_head",
    "decode_continuation",
    "encode_after",
    "encode_continuation",
    "encode_prompt",
    "encode_turn",
    "is_empty_thought",
    "positions_after_space",
    "prompt_text",
    "read_template",
    "refusal_tokens",
    "saved_template",
    "says_sorry",
    "turn_span",
]
