"""The request as it is: the floor that attacks are compared with, and the way benign suites are asked."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from derta.attacks.base import craft_prompt, per_request, user
from derta.protocols import Attack
from derta.records import Prompt, Request


def direct() -> Attack:
    """Ask plainly, in one user's message.

    >>> [prompt] = direct()([Request(id="7", text="Why?")], target=None, rng=Random(0))
    >>> prompt.id, prompt.mode, prompt.messages
    ('direct:7', 'chat', (Message(role='user', content='Why?'),))
    """

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        yield craft_prompt(request, attack="direct", messages=user(request.text))

    return per_request(craft_one)
