"""Options of the attacks on refusals that depend on the words with which a defended model refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from derta.records import REFUSAL_WORDS


def with_refusal_words(
    attack: str, options: Mapping[str, object], *, refusal_words: Sequence[str]
) -> dict[str, object]:
    """Return the options of an attack, with those that follow from a recipe's refusal words and are not set.

    A ban of one word of several would be no test: a model could move to another. So all words are banned, in both cases
    of their first letter, and the paper's word too.

    >>> with_refusal_words("refusal_ban", {"spans": [5]}, refusal_words=["Unfortunately"])
    {'words': ('Unfortunately', 'unfortunately', 'Sorry', 'sorry'), 'spans': [5]}
    >>> with_refusal_words("past_the_refusal", {}, refusal_words=["Unfortunately"])
    {'refusal': "Unfortunately, I can't help with that."}
    >>> with_refusal_words("direct", {}, refusal_words=["Sorry"])
    {}
    """
    words = [form for word in (*refusal_words, *REFUSAL_WORDS) for form in _cases(word)]
    banned, refusal = tuple(dict.fromkeys(words)), f"{refusal_words[0]}, I can't help with that."
    known: Mapping[str, dict[str, object]] = {
        "refusal_ban": {"words": banned},
        "rank_assisted": {} if "openers" in options else {"words": banned},
        "past_the_refusal": {"refusal": refusal},
        "refusal_flood": {"refusal": refusal},
    }
    return {**known.get(attack, {}), **options}


def _cases(word: str) -> tuple[str, str]:
    return word, word[:1].swapcase() + word[1:]
