"""Chat templates and tokenization: prompt and response token ids, BOS and EOS handling, and refusal tokens."""

from derta.chat.conversations import encode_answers
from derta.chat.decoding import UNFINISHED, decode_continuation, positions_after_space
from derta.chat.encoding import (
    Turn,
    encode_after,
    encode_after_text,
    encode_continuation,
    encode_prompt,
    encode_response,
    encode_text,
    encode_turn,
    turn_span,
)
from derta.chat.formats import chat_format
from derta.chat.refusals import RefusalTokens, refusal_tokens
from derta.chat.saved import saved_template
from derta.chat.support import TemplateSupport
from derta.chat.templates import SHIPPED_TEMPLATES, ChatFormat, read_template
from derta.chat.turns import (
    Text,
    answer_content,
    answer_head,
    answer_offset,
    content_text,
    continuation_head,
    join_texts,
    prompt_text,
    thought_head,
)

__all__ = [
    "SHIPPED_TEMPLATES",
    "UNFINISHED",
    "ChatFormat",
    "RefusalTokens",
    "TemplateSupport",
    "Text",
    "Turn",
    "answer_content",
    "answer_head",
    "answer_offset",
    "chat_format",
    "content_text",
    "continuation_head",
    "decode_continuation",
    "encode_after",
    "encode_after_text",
    "encode_answers",
    "encode_continuation",
    "encode_prompt",
    "encode_response",
    "encode_text",
    "encode_turn",
    "join_texts",
    "positions_after_space",
    "prompt_text",
    "read_template",
    "refusal_tokens",
    "saved_template",
    "thought_head",
    "turn_span",
]
