"""Which triples and examples may be trained on; everything dropped or changed is counted by its reason."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple, get_args

from derta.config import DEFAULT_OPENER, SafePolicy
from derta.errors import DataError
from derta.records import Example, Triple


class CleanTriples(NamedTuple):
    """The triples that are left, how many were dropped for which reason, and how many changed in which way.

    Reasons: `in_evaluation`, `safe_is_harmful` (one text in both fields), `safe_not_refusal` and `duplicate`; a triple
    counts for the first that holds. Changes: `opener_normalized` and `opener_prepended`.
    """

    triples: list[Triple]
    dropped: Counter[str]
    changed: Counter[str]


class CleanExamples(NamedTuple):
    """The examples that are left, and how many were dropped for which reason (`in_evaluation`, `duplicate`)."""

    examples: list[Example]
    dropped: Counter[str]


def match_key(text: str) -> str:
    """A text without case, punctuation and spacing: requests of one key are taken for the same request.

    >>> match_key("How do I  bake BREAD?") == match_key("how do I bake bread")
    True
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"[^\W_]+", folded)) or folded.strip()


def clean_triples(
    triples: Iterable[Triple],
    *,
    evaluation_requests: Iterable[str],
    policy: SafePolicy,
    opener: str = DEFAULT_OPENER,
    normalize_to: str | None = None,
) -> CleanTriples:
    """Drop triples that must not be trained on, and see to how their safe responses open.

    Args:
        triples: what the readers gave.
        evaluation_requests: texts of requests that the model will be evaluated on (see `match_key`).
        policy: for a safe response that does not open with a refusal: `drop` the triple, `prepend` the opener, or
            `keep` it as it is.
        opener: the sentence that `prepend` puts before a safe response, with a space between.
        normalize_to: the refusal word to which an opening apology is shortened first ("I'm sorry, but I" becomes
            "Sorry, but I"); None leaves apologies alone.

    Raises:
        DataError: no such policy, or an opener that is no refusal itself.
    """
    if policy not in get_args(SafePolicy):
        raise DataError(f"policy: expected one of {', '.join(get_args(SafePolicy))}, got {policy!r}")
    if policy == "prepend" and not opens_with_refusal(opener):
        raise DataError(f"opener: expected a sentence that refuses, such as {DEFAULT_OPENER!r}, got {opener!r}")
    held_out = {match_key(text) for text in evaluation_requests}
    kept: dict[str, Triple] = {}
    dropped: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for triple in triples:
        safe, change = _opened(triple.safe, policy=policy, opener=opener, normalize_to=normalize_to)
        reason = _fault(triple, safe=safe, held_out=held_out)
        ready = triple if safe is None or not change else triple.model_copy(update={"safe": safe})
        if reason is None and ready.id in kept:
            reason = "duplicate"
        if reason is not None:
            dropped[reason] += 1
            continue
        kept[ready.id] = ready
        changed.update([change] if change else [])
    return CleanTriples(list(kept.values()), dropped, changed)


def _fault(triple: Triple, *, safe: str | None, held_out: set[str]) -> str | None:
    if match_key(triple.query) in held_out:
        return "in_evaluation"
    if match_key(triple.safe) == match_key(triple.harmful):
        return "safe_is_harmful"
    return "safe_not_refusal" if safe is None else None


def _opened(safe: str, *, policy: SafePolicy, opener: str, normalize_to: str | None) -> tuple[str | None, str | None]:
    """The safe response as it will be trained on (None: not at all), and what was changed in it."""
    if opens_with_refusal(safe):
        shortened = safe if normalize_to is None else begin_with_word(safe, normalize_to)
        return shortened, None if shortened == safe else "opener_normalized"
    if policy == "prepend":
        return f"{opener.rstrip()} {safe.lstrip()}", "opener_prepended"
    return (safe if policy == "keep" else None), None


def clean_examples(
    examples: Iterable[Example], *, evaluation_requests: Iterable[str], drop_duplicates: bool = True
) -> CleanExamples:
    """Drop examples that come again, and those with a request of the evaluation as a user turn or a line of text."""
    held_out = {match_key(text) for text in evaluation_requests}
    kept: list[Example] = []
    seen: set[str] = set()
    dropped: Counter[str] = Counter()
    for example in examples:
        requests: list[str] = [message.content for message in example.messages if message.role == "user"]
        requests += [example.text, *example.text.splitlines()] if example.text else []
        if held_out and any(match_key(text) in held_out for text in requests):
            dropped["in_evaluation"] += 1
        elif drop_duplicates and example.id in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(example.id)
            kept.append(example)
    return CleanExamples(kept, dropped)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    lines = (files("derta.data") / "texts" / name).read_text(encoding="utf-8").splitlines()
    return re.compile("|".join(f"(?:{line})" for line in lines if line and not line.startswith("#")), re.IGNORECASE)


def _first_letter(text: str) -> tuple[int, str]:
    """Where the first letter is, and the text from there with straight apostrophes (as long as it was)."""
    start = next((i for i, character in enumerate(text) if character.isalpha()), len(text))
    return start, text[start:].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").replace("\n", " ")


def opens_with_refusal(text: str) -> bool:
    """Whether a response's first words refuse, by the patterns in `texts/refusal_openings.txt`.

    They are meant for responses already known to be safe: an apology or a first-person "cannot help" counts, wherever
    it leads. Advice against the request counts as no refusal: RTO's one-token refusal has nothing to hold on to there.

    >>> opens_with_refusal("I'm sorry, but no."), opens_with_refusal("No, I can't help with that.")
    (True, True)
    >>> opens_with_refusal("You should not do this."), opens_with_refusal("I can't wait to show you how!")
    (False, False)
    """
    return _pattern("refusal_openings.txt").match(_first_letter(text)[1]) is not None


def begin_with_word(text: str, word: str) -> str:
    """Shorten an opening apology to the refusal word; any other text is given back as it came.

    RTO teaches the token `Sorry`, while most collected refusals open with "I'm sorry": this makes the two one.

    >>> begin_with_word("I'm really sorry but I can't help with that.", "Sorry")
    "Sorry, but I can't help with that."
    >>> begin_with_word("I apologize for the trouble.", "Sorry")
    'Sorry for the trouble.'
    """
    start, plain = _first_letter(text)
    found = _pattern("sorry_openings.txt").match(plain)
    if found is None:
        return text
    rest = text[start + found.end() :]
    return word + (f", {rest.lstrip()}" if re.match(r"\s+but\b", rest, re.IGNORECASE) else rest)
