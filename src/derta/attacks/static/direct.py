"""Direct: the plain request, the baseline for attacks and the prompt format of benign suites."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from derta.attacks.base import Attack, per_request
from derta.attacks.building import factory
from derta.attacks.prompts import craft_prompt
from derta.records import Prompt, Request


@factory
def direct() -> Attack:
    """Prompt with the request itself, as one user message.

    >>> [prompt] = direct().craft([Request(id="7", text="Why?")])
    >>> prompt.id, prompt.mode, prompt.messages
    ('direct:7', 'chat', (Message(role='user', content='Why?'),))
    """

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        yield craft_prompt(request, attack="direct", messages=request.conversation)

    return per_request("direct", craft_one)
