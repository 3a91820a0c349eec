"""PAIR: an attacker model refines a prompt, step by step, on what the target replied and how a judge scored it."""

from __future__ import annotations

from typing import Literal

from derta.attacks.adaptive.refinement import Settings, refine
from derta.protocols import Search


def pair(
    *,
    streams: int = 20,
    depth: int = 3,
    tries: int = 5,
    remember: int = 4,
    max_new_tokens: int = 150,
    attacker_tokens: int = 500,
    role: Literal["system", "user"] = "system",
    requests_at_once: int = 4,
) -> Search:
    """Refine a prompt in several streams at once until a judge finds harm; the best prompt of each request is kept.

    The streams of a request, and of `requests_at_once` requests, are asked in one batch at every step. A prompt carries
    what it cost to find; every try is in the state file, so a search that was stopped goes on. An attacker that never
    writes a usable prompt leaves the request as it is.

    Engines decode greedily, where the released code samples the attacker (temperature 1, top-p 0.9; the target is
    greedy there too): here the streams differ in their instructions (three approaches in turn, as the released code has
    three, and a number), and an attacker is shown its malformed output, where that code draws again.

    Args:
        streams: how many lines of refinement a request gets; DeRTa's 20; the released code names 30.
        depth: how many steps a stream has; 3 in both.
        tries: how often the attacker may write something that is no prompt, at each step; then the step is lost. The
            released code's 5.
        remember: how many of its steps the attacker is shown; the released code's 4.
        max_new_tokens: of a target's reply during the search; the released code's 150.
        attacker_tokens: of an attacker's output; the released code's 500.
        role: who instructs the attacker; `user` for templates without a system message.
        requests_at_once: how many requests share a batch.

    Raises:
        RecipeError: a number below 1; from the search, no attacker or no judge.
        RunError: (from the search) the state file is another search's.

    Source: Chao et al. 2023, arXiv 2310.08419, algorithm 1; github.com/patrickrchao/JailbreakingLLMs: `main.py` at
        6379ef7, `conversers.py` at f2bb802, `config.py` at bd2ba2f; 20 x 3 as in arXiv 2407.09121.
    """
    return refine(
        Settings(
            attack="pair",
            template="pair_system.txt",
            streams=streams,
            depth=depth,
            talk=False,
            tries=tries,
            remember=remember,
            max_new_tokens=max_new_tokens,
            attacker_tokens=attacker_tokens,
            role=role,
            requests_at_once=requests_at_once,
        )
    )
