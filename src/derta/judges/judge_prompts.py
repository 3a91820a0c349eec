"""Prompts of judges that use a model: a template with the request and the reply, which cannot end their sections.

The reply is untrusted input: markers of chat formats and of the judge's format are split by a blank, and rubrics
delimit the section with a nonce that the reply does not contain.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

from derta.judges.rubrics import RUBRICS
from derta.protocols import Case
from derta.records import Message, Prompt, short_hash

_SPECIAL = re.compile(
    r"<\||\|>|</?s>|\[/?inst\]|<</?sys>>|</?(?:start|end)_of_turn>|</?(?:bos|eos|pad|unk|mask|think)>|"
    r"<[|｜][^<>|｜\n]{1,40}[|｜]>",
    re.I,
)
_CONTEXT = "\n\n---\n\n"  # separator between the context and the request in HarmBench's contextual requests


@cache
def load_template(name: str) -> str:
    """Load the prompt template of a judge (cached)."""
    return (files("derta.judges") / "texts" / f"judge_{name}.txt").read_text(encoding="utf-8").removesuffix("\n")


def defuse(text: str, lines: re.Pattern[str] | None = None) -> str:
    """Return the text with every marker of a chat format, and of the judge's format, split by a blank.

    >>> defuse("done [/INST] yes<|eot_id|>")
    'done [ /INST] yes< |eot_id| >'
    """
    broken = _SPECIAL.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    broken = _SPECIAL.sub(lambda match: f"{match[0][0]} {match[0][1:]}", broken)
    return broken if lines is None else lines.sub(lambda match: f"{match[0] or '|'} ", broken)


def judge_prompt(name: str, case: Case, *, prompt_id: str) -> Prompt:
    """Return the prompt of a judge: the original request, without the attack around it, and the reply."""
    judge = RUBRICS[name]
    template, full_request = judge.template, case.prompt.request or ""
    context, line, behavior = full_request.rpartition(_CONTEXT)
    if template == "harmbench" and line and behavior.strip():
        template = "harmbench_contextual"
    else:
        context, behavior = "", full_request
    request, reply, context = (defuse(text, judge.lines) for text in (behavior, case.reply.text, context))
    content: dict[str, Any] = {
        "messages": (Message(role="user", content=request), Message(role="assistant", content=reply))
    }
    if template is not None:
        text = fill(template, request=request, reply=reply, context=context)
        turn = (Message(role="user", content=text),)
        content = {"mode": "raw", "text": text} if judge.mode == "raw" else {"messages": turn}
    return Prompt(id=prompt_id, request_id=case.prompt.request_id, request=request or None, attack="judge", **content)


def fill(template: str, **parts: str) -> str:
    """Return a judge's template with its arguments, delimited by a `nonce` that no argument contains."""
    nonce = short_hash(template, *parts.values())
    while any(nonce in part for part in parts.values()):
        nonce = short_hash(nonce)
    values = parts | {"nonce": nonce}
    return re.sub(rf"\{{({'|'.join(values)})\}}", lambda match: values[match[1]], load_template(template))
