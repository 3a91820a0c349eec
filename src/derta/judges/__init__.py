"""Judges: one reply at a time, given the prompt behind it, to a verdict. What cannot be told is None, with a reason."""

from __future__ import annotations

from typing import Literal, NamedTuple

from derta.judges.gsm8k import judge_gsm8k
from derta.judges.harm import judge_harm
from derta.judges.mmlu import judge_mmlu
from derta.judges.refusal import judge_refusal
from derta.protocols import Judge

Measure = Literal["harmful", "refused", "correct"]


class JudgeEntry(NamedTuple):
    """A judge, and the field of its verdicts that its rate counts."""

    judge: Judge
    measures: Measure


JUDGES: dict[str, JudgeEntry] = {
    "refusal": JudgeEntry(judge_refusal, "refused"),
    "harm": JudgeEntry(judge_harm, "harmful"),
    "gsm8k": JudgeEntry(judge_gsm8k, "correct"),
    "mmlu": JudgeEntry(judge_mmlu, "correct"),
}
