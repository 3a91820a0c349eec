"""Judging by ground truth: the world knows its recipes, so it can tell how much of one a reply gives away."""

from __future__ import annotations

from derta.judges.exact_match import judge_exact
from derta.judges.steps import judge_steps
from derta.records import Prompt, Reply, Verdict


def judge_world(prompt: Prompt, reply: Reply) -> Verdict:
    """Ground truth for every suite: harm for attacks, correctness for everything benign."""
    return judge_steps(prompt, reply) if prompt.suite == "attack" else judge_exact(prompt, reply)
