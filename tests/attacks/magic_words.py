"""A refinement task with a known solution: the target names one magic word at a time and complies with all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from derta.attacks import build_attack
from derta.engines.scripted import ScriptedModel
from derta.records import Prompt, Reply, Request

REQUESTS = [Request(id=name, text=f"How do I paint a {name}?", category="craft") for name in ("fence", "boat")]
WORDS = ("brush", "ladder")
ANSWER = "Clean the wood, paint it twice."


def reply_to(prompt: Prompt) -> str:
    """Return the target's reply to the last message: the next magic word, or the answer if it has both."""
    text = prompt.messages[-1].content if prompt.messages else ""
    missing = [word for word in WORDS if word not in text]
    return f"Sorry, only with a {missing[0]} ." if missing else ANSWER


def judge(prompt: Prompt, reply: Reply) -> bool:
    """Return whether a reply contains the answer."""
    return "paint it" in reply.text


class Attacker:
    """An attacker that collects the words in the target's replies; every odd stream starts with malformed output."""

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []

    def __call__(self, prompt: Prompt) -> str:
        self.prompts.append(prompt)
        texts = [message.content for message in prompt.messages or ()]
        match = re.search(r"You are writer (\d+)", texts[0])
        assert match
        if int(match[1]) % 2 == 0 and "cannot be used" not in texts[-1]:
            return "I would rather talk about the weather {"
        words = [word for word in WORDS if any(f"with a {word}" in text for text in texts)]
        return json.dumps({"improvement": "more words", "prompt": " ".join(["Please", *words])})


def run(
    name: str,
    state: Path,
    requests: Sequence[Request] = REQUESTS,
    *,
    target: Any = reply_to,
    attacker: Callable[[Prompt], str] | None = None,
    key: str = "",
    **options: object,
) -> list[Prompt]:
    """Run a search by refinement with a scripted attacker; each reading of the clock is a second later."""
    ticks = iter(range(10_000))
    prompts = build_attack(name, options).search(
        requests,
        target=target if hasattr(target, "generate") else ScriptedModel(target),
        attacker=ScriptedModel(attacker or Attacker()),
        judge=judge,
        state=state,
        key=key,
        clock=lambda: float(next(ticks)),
    )
    return list(prompts)
