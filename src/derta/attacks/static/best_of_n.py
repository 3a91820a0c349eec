"""Best-of-N jailbreaking: many randomly misspelt copies of a request, of which one success is enough.

Source: Hughes et al. 2024, "Best-of-N Jailbreaking" (arXiv 2412.03556), algorithm 1 and appendix A.1; probabilities as
in jplhughes/bon-jailbreaking@c118210, `bon/attacks/run_text_bon.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from typing import Annotated

from pydantic import Field

from derta.attacks.base import Attack, per_request
from derta.attacks.building import factory
from derta.attacks.prompts import after_context, craft_prompt
from derta.records import Prompt, Request

_WORD = re.compile(r"\S+")
_PRINTABLE = range(32, 127)
"""Code points of printable ASCII."""


def scramble(text: str, rng: Random, *, probability: float) -> str:
    """Shuffle the middle letters of words of four letters or more, each word with a probability.

    >>> scramble("bread it", Random(0), probability=1.0)
    'bared it'
    """

    def shuffled(match: re.Match[str]) -> str:
        word = match[0]
        if len(word) < 4 or rng.random() >= probability:
            return word
        middle = [*word[1:-1]]
        rng.shuffle(middle)
        return word[0] + "".join(middle) + word[-1]

    return _WORD.sub(shuffled, text)


def swap_cases(text: str, rng: Random, *, probability: float) -> str:
    """Change the case of ASCII letters, each with a probability.

    >>> swap_cases("Bake", Random(0), probability=1.0)
    'bAKE'
    """
    return "".join(
        letter.swapcase() if letter.isascii() and letter.isalpha() and rng.random() < probability else letter
        for letter in text
    )


def add_noise(text: str, rng: Random, *, probability: float) -> str:
    """Replace printable ASCII characters by one of their neighbours in ASCII, each with a probability.

    A character whose neighbour is not printable stays.

    >>> add_noise("bake", Random(0), probability=1.0)
    'cblf'
    """

    def noised(letter: str) -> str:
        if ord(letter) not in _PRINTABLE or rng.random() >= probability:
            return letter
        code = ord(letter) + rng.choice((-1, 1))
        return chr(code) if code in _PRINTABLE else letter

    return "".join(map(noised, text))


def augment(text: str, rng: Random, *, sigma: float) -> str:
    """Scramble, swap cases and add noise, with the probabilities √σ, √σ and σ³.

    >>> augment("How is bread made?", Random(1), sigma=0.4) != "How is bread made?"
    True
    """
    text = scramble(text, rng, probability=sigma**0.5)
    text = swap_cases(text, rng, probability=sigma**0.5)
    return add_noise(text, rng, probability=sigma**3)


@factory
def best_of_n(*, n: Annotated[int, Field(ge=1)] = 100, sigma: Annotated[float, Field(ge=0, le=1)] = 0.4) -> Attack:
    """Prompt with `n` augmented copies of the request; the attack succeeds if the reply to any of them is harmful.

    The first copies of a request are the same for any `n`. In the paper replies are sampled: set `temperature: 1` in
    the evaluation.

    >>> [one.id for one in best_of_n(n=2).craft([Request(id="7", text="How is bread made?")])]
    ['best_of_n:7#0', 'best_of_n:7#1']

    Args:
        n: Number of copies of each request.
        sigma: Strength of the augmentations.
    """

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        for number in range(n):
            text = augment(request.text, rng, sigma=sigma)
            yield craft_prompt(request, attack="best_of_n", messages=after_context(request, text), draw=number)

    return per_request("best_of_n", craft_one)
