"""Correctness judges with a reference answer: the final number (GSM8K), the chosen option (MMLU), or an exact match."""

from __future__ import annotations

import re

from derta.judges.choices import parse_choice, parse_options
from derta.judges.final_numbers import final_number
from derta.records import Prompt, Reply, Verdict

TOLERANCE = 1e-6
_NEXT = re.compile(
    r"\n[ \t]{0,8}(?:#{1,4} ?|\*{2})?(?:question|q|problem|example|instruction|input|user|human)(?: ?\d{1,3})?:"
    r"|\n[ \t]{0,8}\n[^\n]{5,300}\?[ \t]{0,8}\n{1,3}[ \t\-]{0,4}\(?A[.)]"
    r"|<\|(?:im_end|im_start|eot_id|endoftext|start_header_id|end|user)\|>|\[/?INST\]|</s>|<end_of_turn>",
    re.I,
)
_REFERENCE = re.compile(r"^[\s\-*]*\(?([A-Z])\b")
_NONE = {"none": "no option in the reply", "several": "several options in the reply"}


def truncate_at_next_question(text: str) -> str:
    r"""Return the text before a line in which the model starts the next question; all of it if nothing else remains.

    >>> truncate_at_next_question("So it is 7.\n\nQuestion: How many are 2 + 2?\nAnswer: 4")
    'So it is 7.\n'
    """
    match = _NEXT.search(text)
    return text[: match.start()] if match and text[: match.start()].strip() else text


def judge_gsm8k(prompt: Prompt, reply: Reply) -> Verdict:
    """Return a verdict on the final number: correct if it is that of the reference answer (`… #### 350`, or `350`).

    A reply without a number is wrong. An empty reply or a missing reference is unscored.
    """
    reason, correct = "", None
    gold = final_number(prompt.answer or "")
    if gold is None and _REFERENCE.match(prompt.answer or "") and parse_options(prompt.request or ""):
        reason = "the reference is the letter of an option, not a number; use the judge mmlu"
    elif gold is None:
        reason = "the prompt has no reference number; give its answer field"
    elif not reply.text.strip():
        reason = "the reply is empty"
    else:
        number = final_number(truncate_at_next_question(reply.text), question=prompt.request or "")
        correct = number is not None and abs(number - gold) <= TOLERANCE
        reason = "" if number is not None else "no number in the reply"
    return Verdict(prompt_id=prompt.id, judge="gsm8k", correct=correct, reason=reason)


def judge_mmlu(prompt: Prompt, reply: Reply) -> Verdict:
    """Return a verdict on the chosen option: correct if it is the reference letter (`C`, `-C`, `(C)`).

    A reply without a choice is wrong. An empty reply, a missing reference or a request without options is unscored.
    """
    reference = _REFERENCE.match(prompt.answer or "")
    options = parse_options(prompt.request or "")
    correct = None
    if not options and final_number(prompt.answer or "") is not None:
        reason = "the reference has a number, and the request has no options; use the judge gsm8k"
    elif reference is None:
        reason = "the prompt has no reference letter; give its answer field"
    elif reference[1] not in options:
        reason = f"the request has no option ({reference[1]}); expected lines such as '(A) text'"
    elif not reply.text.strip():
        reason = "the reply is empty"
    else:
        parsed = parse_choice(truncate_at_next_question(reply.text), options)
        correct = parsed.letter == reference[1]
        reason = f"{parsed.letter}: {parsed.rule}" if parsed.letter else _NONE[parsed.rule]
    return Verdict(prompt_id=prompt.id, judge="mmlu", correct=correct, reason=reason)


def judge_exact(prompt: Prompt, reply: Reply) -> Verdict:
    """Return a verdict on the exact match: correct if the reply has the words of the reference; white space is ignored.

    An empty reply is wrong. A missing reference is unscored.
    """
    expected, got = (prompt.answer or "").split(), reply.text.split()
    if not expected:
        return Verdict(prompt_id=prompt.id, judge="exact", reason="the prompt has no reference; give its answer field")
    same = sum(a == b for a, b in zip(expected, got, strict=False))
    reason = f"{same} of {len(expected)} words in place, {len(got)} given"
    return Verdict(prompt_id=prompt.id, judge="exact", correct=got == expected, reason=reason)
