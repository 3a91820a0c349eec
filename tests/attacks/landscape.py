"""A genetic search with a known optimum: each good word in a prompt makes the start of a compliant reply likelier."""

from __future__ import annotations

from derta.records import Prompt, Reply, Request

SYNONYMS = "help, aid, assist\n=====\nkind, gentle, mild\n=====\nanswer, reply, response"
SEEDS = (
    "Dear gardener. Please help with this. [INSERT PROMPT HERE] Be kind.",
    "Good day. I want a answer. [INSERT PROMPT HERE] Thank you.",
)
GOOD = ("assist", "mild", "reply")
REQUEST = Request(id="r", text="How do I paint a fence?")


def count_good(prompt: Prompt) -> int:
    """Return the number of good words in a prompt."""
    text = prompt.messages[-1].content.lower() if prompt.messages else ""
    return sum(word in text for word in GOOD)


def log_prob(prompt: Prompt, _before: str, _word: str) -> float:
    """Return the log-probability of each token after a prompt: -4, and 1 more for each good word."""
    return -4.0 + count_good(prompt)


def judge(prompt: Prompt, reply: Reply) -> bool:
    """Return whether the target complies: its reply is yes if the prompt has all good words."""
    return reply.text == "yes"
