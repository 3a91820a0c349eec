"""The request as it is: the floor that attacks are compared with, and the way benign suites are asked."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from derta.attacks.base import Attack, per_request
from derta.attacks.building import factory
from derta.attacks.prompts import craft_prompt, user
from derta.records import Prompt, Request


@factory
def direct() -> Attack:
    """Ask plainly, in one user's message.

    >>> [prompt] = direct().craft([Request(id="7", text="Why?")])
    >>> prompt.id, prompt.mode, prompt.messages
    ('direct:7', 'chat', (Message(role='user', content='Why?'),))
    """

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        yield craft_prompt(request, attack="direct", messages=user(request.text))

    return per_request("direct", craft_one)
