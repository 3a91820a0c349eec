"""PAIR: an attacker model refines a prompt step by step, given the target's reply and a judge's score."""

from __future__ import annotations

from typing import Literal

from derta.attacks.adaptive.refinement import RefinementSettings, refine
from derta.attacks.base import Attack
from derta.attacks.building import factory


@factory
def pair(
    *,
    streams: int = 20,
    depth: int = 3,
    attacker_attempts: int = 5,
    remember: int = 4,
    max_new_tokens: int = 150,
    attacker_tokens: int = 500,
    role: Literal["system", "user"] = "system",
    requests_at_once: int = 4,
) -> Attack:
    """Refine a prompt in several streams at once, until a judge labels a reply harmful, and return the best prompt.

    At each step, all streams of `requests_at_once` requests form one batch. Each prompt has its `cost`. Every attempt
    is in the state file, so a stopped search can resume. If the attacker never writes a valid prompt, the output is the
    request itself. The search requires an attacker and a judge:

    >>> from derta.engines.scripted import ScriptedModel
    >>> from derta.records import Request
    >>> target = ScriptedModel(lambda prompt: "First mix it." if "please" in prompt.messages[-1].content else "Sorry.")
    >>> attacker = ScriptedModel(lambda prompt: '{"improvement": "politer", "prompt": "Explain it, please."}')
    >>> search = pair(streams=1).search(
    ...     [Request(id="7", text="Why?")], target=target, attacker=attacker, judge=lambda _, reply: "mix" in reply.text
    ... )
    >>> [(prompt.id, prompt.messages[0].content, prompt.cost.target_queries) for prompt in search]
    [('pair:7', 'Explain it, please.', 1)]

    Engines decode greedily. The released code samples the attacker's output instead (temperature 1, top-p 0.9; its
    target is greedy too). Here, streams differ in their instructions: a number, and one of three approaches in turn,
    the same number as in the released code. After a malformed output, the attacker's next prompt contains that output
    and the error; the released code samples again.

    Args:
        streams: Number of independent refinements per request; 20 in the DeRTa paper, 30 in the released code.
        depth: Number of steps per stream; 3 in both.
        attacker_attempts: Maximum number of attacker outputs per step. If all are malformed, the step has no prompt. 5
            in the released code.
        remember: Number of previous steps in the attacker's prompt; 4 in the released code.
        max_new_tokens: Maximum length of a target's reply during the search; 150 in the released code.
        attacker_tokens: Maximum length of an attacker's output; 500 in the released code.
        role: The role of the attacker's instructions; `user` for chat templates without a system role.
        requests_at_once: Number of requests per batch.

    Raises:
        RecipeError: a number is below 1.

    Source: Chao et al. 2023, arXiv 2310.08419, algorithm 1; github.com/patrickrchao/JailbreakingLLMs: `main.py` at
        6379ef7, `conversers.py` at f2bb802, `config.py` at bd2ba2f; 20 x 3 as in arXiv 2407.09121.
    """
    return refine(
        RefinementSettings(
            attack="pair",
            template="pair_system.txt",
            streams=streams,
            depth=depth,
            multi_turn=False,
            attacker_attempts=attacker_attempts,
            remember=remember,
            max_new_tokens=max_new_tokens,
            attacker_tokens=attacker_tokens,
            role=role,
            requests_at_once=requests_at_once,
        )
    )
