"""Chat templates: loading of the Jinja source, and rendering of conversations."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derta.errors import ModelError
from derta.messages import Tools
from derta.template_probe import TEMPLATE_ERRORS, environment
from derta.thoughts import Thought

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHIPPED_TEMPLATES = ("paper", "paper_eval")
_CLOCK = "strftime_now"
"""Function that Transformers offers to templates for today's date."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """Configuration of a chat format: tokenizer, chat template, and the token ids that close an assistant turn.

    Attributes:
        tokenizer: A fast tokenizer.
        template: Jinja source of the chat template; a date in it is fixed (see `fix_date`).
        template_kwargs: Keyword arguments of the template.
        lead: Text that the template writes between the generation prompt and an answer, such as an empty thought.
        closing: Text that the template writes after an answer, and `closing_ids` its tokens, which follow every
            response in training.
        stop_ids: Tokens that end generation: the EOS token, and the control tokens among `closing_ids`.
        thought: Format of the model's thoughts; None if the generation prompt leaves no room for one.
        thinking: Whether generation starts before the thought. Otherwise it starts after an empty one.
        markup: Pattern of the texts that the tokenizer would encode as control tokens; None if it has none.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    template_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    lead: str = ""
    closing: str = ""
    closing_ids: tuple[int, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    thought: Thought | None = None
    thinking: bool = True
    markup: re.Pattern[str] | None = None


def read_template(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    r"""Load the Jinja source of a chat template: `auto` (the tokenizer's), `paper`, `paper_eval`, or a file path.

    Of a tokenizer with several named templates, `auto` is the one named `default`; `name` may be any of the names.

    `paper` is the training format of the released code, `[INST] {q} [\INST] {answer}`; `paper_eval` is its evaluation
    format.

    Raises:
        ModelError: `auto`, and the tokenizer has no chat template; or the file cannot be read.
    """
    own = tokenizer.chat_template
    if name == "auto" and isinstance(own, str):
        return own
    if isinstance(own, Mapping) and name in {*own, "auto"}:
        named: Mapping[str, str] = own
        if name == "auto" and "default" not in named:
            raise ModelError(
                f"template: tokenizer {tokenizer.name_or_path!r} has the templates {', '.join(named)} and none named "
                "'default'; set `template` to one of these names"
            )
        return named["default" if name == "auto" else name]
    if name == "auto":
        raise ModelError(
            f"expected a chat template in tokenizer {tokenizer.name_or_path!r}, found none; set `template: paper` "
            "or the path of a Jinja file in the recipe"
        )
    if name in SHIPPED_TEMPLATES:
        return (files("derta") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"template: expected 'auto', 'paper', 'paper_eval' or a readable Jinja file, got {name!r} ({error})"
        ) from error


def render(
    chat: ChatFormat,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    tools: Tools = None,
) -> str:
    """Render a conversation of message dicts.

    Raises:
        ModelError: the template refuses the conversation.
    """
    from jinja2 import TemplateError

    options: dict[str, Any] = {"tools": None, **chat.template_kwargs, **({"tools": list(tools)} if tools else {})}
    try:
        text = chat.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=chat.template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **options,
        )
    except (TemplateError, *TEMPLATE_ERRORS) as error:
        roles, reason = [message["role"] for message in messages], " ".join(str(error).split())
        raise ModelError(
            f"the chat template refused a conversation of {roles}: {reason:.300}; set another `template`, or the "
            "variable that it expects in `template_kwargs` (such as tools: [])"
        ) from error
    return str(text)


def fix_date(template: str, day: str) -> str:
    """Return a template that writes this date where it writes today's; unchanged if it writes none.

    The calls of `strftime_now` become those of a macro of the same name, so that the template gives the same text on
    every day and in every program, also as part of a saved model.

    >>> fix_date("{{ strftime_now('%Y') }}", "2024-07-26").partition("2024")[2]
    "{%- endif -%}{%- endmacro %}{{ strftime_now('%Y') }}"

    Raises:
        ModelError: the date is not written as YYYY-MM-DD, or the format of a date is not a constant.
    """
    from jinja2 import TemplateSyntaxError, meta, nodes

    try:
        moment = date.fromisoformat(day)
    except ValueError as error:
        raise ModelError(f"template_date: expected a date as YYYY-MM-DD, got {day!r}") from error
    if _CLOCK not in template:
        return template
    sandbox = environment()
    del sandbox.globals[_CLOCK]  # an undeclared name, unless the template defines it
    try:
        parsed = sandbox.parse(template)
    except TemplateSyntaxError:
        return template  # rendering reports it
    if _CLOCK not in meta.find_undeclared_variables(parsed):
        return template  # its date has been fixed before
    calls = [call for call in parsed.find_all(nodes.Call) if getattr(call.node, "name", None) == _CLOCK]
    forms = dict.fromkeys(form.value if isinstance(form, nodes.Const) else None for call in calls for form in call.args)
    if None in forms or any(call.kwargs for call in calls):
        raise ModelError("the chat template writes a date in a format that is not a constant; set another `template`")
    cases = "".join(
        f"{{%- {'elif' if i else 'if'} form == {json.dumps(form)} -%}}{moment.strftime(str(form))}"
        for i, form in enumerate(forms)
    )
    macro = f"{{%- macro {_CLOCK}(form) -%}}{cases}{{%- endif -%}}{{%- endmacro %}}"
    # Transformers' environment removes one line break after a block
    return macro + ("\n" if template.startswith("\n") else "") + template
