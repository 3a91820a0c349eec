"""Genetic operators of AutoDAN: crossover of sentences, and replacement of words by synonyms with better scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import exp
from random import Random

MARK = "\ue000"
"""The placeholder for the request during the search: a private-use character, which no text contains."""
_SENTENCE = re.compile(r".+?(?:[.!?]+\s+|\Z)", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")


def sentences(text: str) -> list[str]:
    """Split a text into sentences with their trailing white space; joined, they give the text again.

    >>> sentences("Hello! Who are you?")
    ['Hello! ', 'Who are you?']
    """
    return _SENTENCE.findall(text)


def join(parts: Sequence[str]) -> str:
    """Join sentences from any texts into one text that contains the mark exactly once."""
    spaced = [part if part[-1:].isspace() or not part else part + " " for part in parts[:-1]]
    text = "".join([*spaced, *parts[-1:]])
    if MARK not in text:
        return f"{text.rstrip()} {MARK}"
    head, _, tail = text.partition(MARK)
    return head + MARK + tail.replace(MARK, "")


def cross(first: str, second: str, *, points: int, rng: Random) -> tuple[str, str]:
    """Return two children: the texts with runs of sentences swapped, at up to `points` random cuts."""
    ours, theirs = sentences(first), sentences(second)
    shorter = min(len(ours), len(theirs))
    cuts = sorted(rng.sample(range(1, shorter), min(points, shorter - 1))) if shorter > 1 else []
    children: tuple[list[str], list[str]] = ([], [])
    for number, (begin, end) in enumerate(zip([0, *cuts], [*cuts, None], strict=True)):
        child = number % 2
        children[child].extend(ours[begin:end])
        children[1 - child].extend(theirs[begin:end])
    return join(children[0]), join(children[1])


def draw(weights: Mapping[str, float], *, rng: Random) -> str:
    """Sample a key with a probability given by the softmax of the values."""
    top = max(weights.values())
    return rng.choices(list(weights), [exp(value - top) for value in weights.values()])[0]


def word_scores(
    population: Mapping[str, float], previous: Mapping[str, float], *, synonyms: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Compute each word's score: the mean fitness of the texts with it, averaged with its previous score (momentum).

    >>> synonyms = {"help": ("help", "aid"), "aid": ("help", "aid")}
    >>> word_scores({"Please help": -1.0, "Help me": -3.0}, {"help": -4.0}, synonyms=synonyms)
    {'help': -3.0}
    """
    values_by_word: dict[str, list[float]] = {}
    for text, fitness in population.items():
        for word in {word.lower() for word in _WORD.findall(text)} & synonyms.keys():
            values_by_word.setdefault(word, []).append(fitness)
    means = {word: sum(values) / len(values) for word, values in values_by_word.items()}
    return {**previous, **{word: (previous.get(word, mean) + mean) / 2 for word, mean in sorted(means.items())}}


def reword(
    text: str,
    *,
    synonyms: Mapping[str, Sequence[str]],
    chance: float,
    rng: Random,
    scores: Mapping[str, float] | None = None,
) -> str:
    """Replace each word with probability `chance` by a synonym, sampled by the scores, or uniformly by default."""

    def replace(match: re.Match[str]) -> str:
        word = match[0]
        choices = synonyms.get(word.lower(), ())
        if scores is not None:
            choices = [choice for choice in choices if choice in scores]
        if not choices or rng.random() >= chance:
            return word
        chosen = rng.choice(choices) if scores is None else draw({one: scores[one] for one in choices}, rng=rng)
        return chosen.capitalize() if word[0].isupper() else chosen

    return _WORD.sub(replace, text)


def read_synonyms(lines: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Parse groups of synonyms, one group per line in the format `help, aid`, and return the group of each word.

    >>> read_synonyms(["help, aid", "say, state"])["aid"]
    ('help', 'aid')
    """
    groups = [tuple(word.strip().lower() for word in line.split(",") if word.strip()) for line in lines]
    return {word: group for group in groups for word in group}
