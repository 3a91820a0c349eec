"""Chat templates: loading of the Jinja source, and rendering of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derta.errors import ModelError
from derta.records import Message
from derta.template_probe import TEMPLATE_ERRORS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHIPPED_TEMPLATES = ("paper", "paper_eval")


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """Configuration of a chat format: tokenizer, chat template, and the token ids that close an assistant turn.

    `closing_ids` follow every response in training. `stop_ids` end generation: the EOS token, and the special tokens
    among `closing_ids`.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    template_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    closing_ids: tuple[int, ...] = ()
    stop_ids: frozenset[int] = frozenset()


def read_template(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    r"""Load the Jinja source of a chat template: `auto` (the tokenizer's), `paper`, `paper_eval`, or a file path.

    `paper` is the training format of the released code, `[INST] {q} [\INST] {answer}`; `paper_eval` is its evaluation
    format.

    Raises:
        ModelError: `auto`, and the tokenizer has no chat template; or the file cannot be read.
    """
    if name == "auto":
        template = tokenizer.chat_template
        if not isinstance(template, str):
            raise ModelError(
                f"expected a chat template in tokenizer {tokenizer.name_or_path!r}, found none; set `template: paper` "
                "or the path of a Jinja file in the recipe"
            )
        return template
    if name in SHIPPED_TEMPLATES:
        return (files("derta") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"template: expected 'auto', 'paper', 'paper_eval' or a readable Jinja file, got {name!r} ({error})"
        ) from error


def render(chat: ChatFormat, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    """Render a conversation.

    Raises:
        ModelError: the template refuses the conversation.
    """
    from jinja2 import TemplateError

    try:
        text = chat.tokenizer.apply_chat_template(
            [message.model_dump() for message in messages],
            chat_template=chat.template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **chat.template_kwargs,
        )
    except (TemplateError, *TEMPLATE_ERRORS) as error:
        roles, reason = [message.role for message in messages], " ".join(str(error).split())
        raise ModelError(
            f"the chat template refused a conversation of {roles}: {reason:.300}; set another `template`"
        ) from error
    return str(text)
