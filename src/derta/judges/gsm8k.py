"""Whether a reply's final number is the reference's (GSM8K)."""

from __future__ import annotations

from derta.judges.numbers import final_number
from derta.judges.run_on import own_answer
from derta.records import Prompt, Reply, Verdict

TOLERANCE = 1e-6


def judge_gsm8k(prompt: Prompt, reply: Reply) -> Verdict:
    """Compare the final number of the reply with that of the prompt's reference answer (`… #### 350`, or `350`).

    A reply without a number is wrong; an empty reply or a missing reference is unscored.
    """
    reason, correct = "", None
    gold = final_number(prompt.answer or "")
    if gold is None:
        reason = "the prompt has no reference number; give its answer field"
    elif not reply.text.strip():
        reason = "the reply is empty"
    else:
        found = final_number(own_answer(reply.text), question=prompt.request or "")
        correct = found is not None and abs(found - gold) <= TOLERANCE
        reason = "" if found is not None else "no number in the reply"
    return Verdict(prompt_id=prompt.id, judge="gsm8k", correct=correct, reason=reason)
