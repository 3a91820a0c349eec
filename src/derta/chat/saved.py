"""Chat template of a saved model: it gives every program the prompts that the model was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any, cast

from derta.chat.encoding import encode, encode_prompt
from derta.chat.templates import ChatFormat
from derta.chat.turns import generation_prompt, prompt_text
from derta.errors import ModelError
from derta.messages import Message
from derta.records import Prompt

_ALWAYS_DEFINED = ("tools", "documents", "raise_exception", "strftime_now")
"""Variables that transformers defines for every template, with special tokens and the globals of Jinja."""
_OPERATORS = frozenset({"and", "else", "if", "in", "is", "not", "or", "true", "false", "none", "True", "False", "None"})
"""Words that a template cannot use as names of variables."""
_MAX_SURPLUS = 16
"""Maximum number of characters before an answer that a tokenizer merges into its first token; usually one blank."""
_USER = (Message(role="user", content="Hello."),)
_PROMPT = Prompt(id="saved", request_id="saved", request="Hello.", attack="direct", messages=_USER)


def set_defaults(chat: ChatFormat) -> str:
    """Return Jinja blocks that set `template_kwargs` as defaults; a line break after a block is not rendered."""
    from jinja2.defaults import DEFAULT_NAMESPACE

    defined = {*_ALWAYS_DEFINED, *chat.tokenizer.special_tokens_map, *DEFAULT_NAMESPACE}
    blocks: list[str] = []
    for name, value in chat.template_kwargs.items():
        if name.isidentifier() and name not in _OPERATORS:
            text = _literal(value, name=name)
            blocks.append(f"{{%- set {name} = " + (text if name in defined else f"{name} | default({text})") + " %}")
    return "".join(blocks)


def saved_template(chat: ChatFormat) -> str:
    r"""Return a chat format's template, changed so that other programs encode prompts as derta does.

    - `template_kwargs` are defaults, set at its start. A caller's arguments override them, except variables that are
      always defined, such as special tokens.
    - A BOS token is written if the tokenizer adds one, which it does not do with a template.
    - The generation prompt ends where generation starts: after what the template itself writes before an answer, and
      before a blank that belongs to the answer's first token.

    >>> from derta.demo.model import build_tokenizer
    >>> from derta.demo.world import build_world
    >>> tokenizer = build_tokenizer(build_world(seed=0))
    >>> template = "{% for message in messages %}{{ message.content }} {% endfor %}{{ thinking }}"
    >>> saved_template(ChatFormat(tokenizer, template, {"thinking": False})).partition("\n")[0]
    '{%- set thinking = thinking | default(false) %}{%- if bos_token %}{{ bos_token }}{% endif %}'

    Raises:
        ModelError: a keyword argument is not a JSON value.
    """
    body = chat.template.removesuffix("\n")  # Jinja removes it where it ends the source
    text = prompt_text(chat, _PROMPT).text
    lead = text[len(generation_prompt(chat, _USER).text) :]
    start, surplus = _ends(chat, text, encode_prompt(chat, _PROMPT))
    prelude = set_defaults(chat) + (
        f"{{%- if bos_token %}}{{{{ bos_token }}}}{start}{{% endif %}}" if start is not None else ""
    )
    if surplus > len(lead):
        body = _without_end(body, surplus - len(lead))
    elif written := lead[: len(lead) - surplus]:
        body += f'{{{{ {json.dumps(written, ensure_ascii=False)} if add_generation_prompt else "" }}}}'
    elif not prelude:
        return chat.template
    return body if not prelude or body.startswith(prelude) else prelude + "\n" + body


def _ends(chat: ChatFormat, text: str, token_ids: list[int]) -> tuple[str | None, int]:
    """Return what a prompt's text lacks and has too much of, compared with its token ids.

    Returns:
        The text between a BOS token and the prompt (a blank where SentencePiece adds one), None if the prompt needs no
        BOS; and the length of the white space at the end that belongs to the answer's first token.
    """
    bos = str(chat.tokenizer.bos_token or "")
    starts = {None: "", "": bos, " ": bos + " "} if bos else {None: ""}
    for start, written in starts.items():
        for surplus in range(min(len(text), _MAX_SURPLUS) + 1):
            if encode(chat.tokenizer, written + text[: len(text) - surplus]) == token_ids:
                return start, surplus if text[len(text) - surplus :].isspace() else 0
    return None, 0


def _without_end(template: str, length: int) -> str:
    """Return a template whose generation prompt lacks this much of its end."""
    text = f"{{% set derta_prompt %}}\n{template}{{%+ endset %}}{{{{ derta_prompt[:-{length}] }}}}"
    return f"{{% if add_generation_prompt %}}{text}{{% else %}}\n{template}{{%+ endif %}}"


def _literal(value: Any, *, name: str) -> str:
    """Return a JSON value as an expression of Jinja."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # Jinja's escapes are those of Python
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return "{" + ", ".join(f"{_literal(key, name=name)}: {_literal(one, name=name)}" for key, one in items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_literal(one, name=name) for one in cast("list[Any]", value)) + "]"
    raise ModelError(f"template_kwargs.{name}: expected a JSON value, got {value!r:.80}; change it in the recipe")
