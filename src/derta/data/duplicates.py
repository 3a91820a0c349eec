"""Equal and near-equal texts, without a model: by their normal form, and by the content words that they share."""

from __future__ import annotations

from collections.abc import Iterable

from derta.data.matching import match_key
from derta.data.topic import content_words

NEAR = 0.8
"""Share of common content words (Jaccard index) from which two texts are near duplicates."""


class SeenTexts:
    """Texts that were seen, by their normal form (`match_key`) and by group with their content words.

    >>> seen = SeenTexts(["How do I bake bread?"])
    >>> [seen.add(text, group="a") for text in ("how do I bake bread", "How is tea made?", "How can tea be made?")]
    ['duplicate', None, 'near_duplicate']
    >>> seen.add("How can tea be made?", group="b") is None
    True
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._keys = {match_key(text) for text in texts}
        self._words: dict[str, dict[int, list[set[str]]]] = {}

    def add(self, text: str, *, group: str) -> str | None:
        """Add a text, unless it is equal to one, or nearly equal to one of its group; then return that as a reason.

        A text without content words has no near duplicates.
        """
        key = match_key(text)
        if key in self._keys:
            return "duplicate"
        words, sizes = content_words(text), self._words.setdefault(group, {})
        if words and any(_is_near(words, other) for size in _near_sizes(len(words), sizes) for other in sizes[size]):
            return "near_duplicate"
        self._keys.add(key)
        if words:
            sizes.setdefault(len(words), []).append(words)
        return None


def _near_sizes(count: int, sizes: Iterable[int]) -> list[int]:
    """Return the sizes of sets that can be near a set of `count` words."""
    return [size for size in sizes if min(size, count) >= NEAR * max(size, count)]


def _is_near(words: set[str], others: set[str]) -> bool:
    common = len(words & others)
    return common >= NEAR * (len(words) + len(others) - common)
