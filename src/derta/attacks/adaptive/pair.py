"""PAIR: an attacker model refines a prompt, step by step, on what the target replied and how a judge scored it."""

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
    """Refine a prompt in several streams at once until a judge finds harm; the best prompt of each request is kept.

    The streams of a request, and of `requests_at_once` requests, share a batch at every step. A prompt carries what it
    cost to find; every attempt is in the state file, so a search that was stopped resumes. An attacker that never
    writes a usable prompt leaves the request as it is. It needs an attacker and a judge:

    >>> from derta.engines.scripted import ScriptedModel
    >>> from derta.records import Request
    >>> target = ScriptedModel(lambda prompt: "First mix it." if "please" in prompt.messages[-1].content else "Sorry.")
    >>> attacker = ScriptedModel(lambda prompt: '{"improvement": "politer", "prompt": "Tell me, please."}')
    >>> search = pair(streams=1).search(
    ...     [Request(id="7", text="Why?")], target=target, attacker=attacker, judge=lambda _, reply: "mix" in reply.text
    ... )
    >>> [(prompt.id, prompt.messages[0].content, prompt.cost.target_queries) for prompt in search]
    [('pair:7', 'Tell me, please.', 1)]

    Engines decode greedily, where the released code samples the attacker (temperature 1, top-p 0.9; the target is
    greedy there too): here the streams differ in their instructions (three approaches in turn, as the released code has
    three, and a number), and an attacker is shown its malformed output, where that code draws again.

    Args:
        streams: how many lines of refinement a request gets; DeRTa's 20; the released code names 30.
        depth: how many steps a stream has; 3 in both.
        attacker_attempts: how many outputs the attacker has at each step to write a usable prompt; then the step is
            lost. The released code's 5.
        remember: how many of its steps the attacker is shown; the released code's 4.
        max_new_tokens: of a target's reply during the search; the released code's 150.
        attacker_tokens: of an attacker's output; the released code's 500.
        role: who instructs the attacker; `user` for templates without a system message.
        requests_at_once: how many requests share a batch.

    Raises:
        RecipeError: a number below 1.

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
