"""Deduplication, decontamination and refusal checks of datasets, with counts of dropped rows by reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple, get_args

from derta.config import DEFAULT_OPENER, SafePolicy
from derta.data.matching import RequestTurns, conversation_keys, match_key, request_key
from derta.errors import DataError
from derta.records import Example, Triple


class CleanTriples(NamedTuple):
    """Output of `clean_triples`: the remaining triples, and counts of the dropped and the changed ones.

    Reasons for dropping: `in_evaluation`, `safe_is_harmful` (the same text in both fields), `safe_not_refusal` and
    `duplicate`; a triple counts for the first one that holds. Changes: `opener_normalized` and `opener_prepended`.
    """

    triples: list[Triple]
    dropped: Counter[str]
    changed: Counter[str]


class CleanExamples(NamedTuple):
    """Output of `clean_examples`: the remaining examples, and counts of dropped ones (`in_evaluation`, `duplicate`)."""

    examples: list[Example]
    dropped: Counter[str]


def clean_triples(
    triples: Iterable[Triple],
    *,
    evaluation_requests: Iterable[RequestTurns],
    policy: SafePolicy,
    opener: str = DEFAULT_OPENER,
    normalize_to: str | None = None,
) -> CleanTriples:
    """Return the triples that are valid for training, after formatting the openings of their safe responses.

    Args:
        triples: Input triples, in the order of the dataset.
        evaluation_requests: The evaluation requests; triples with one of them as the query or as an earlier user turn
            are dropped (see `match_key`).
        policy: Option for a safe response that does not open with a refusal: `drop` the triple, `prepend` the opener,
            or `keep` the response unchanged. `rewrite` needs a model, which the caller runs before.
        opener: Sentence that `prepend` inserts before a safe response, followed by a space.
        normalize_to: Refusal word that replaces an opening apology, before the policy applies ("I'm sorry, but I"
            becomes "Sorry, but I"); None keeps apologies unchanged.

    Raises:
        DataError: Invalid `policy`, or an `opener` that does not refuse.
    """
    if policy == "rewrite":
        raise DataError(
            "policy: expected drop, prepend or keep, got 'rewrite', which needs a model; use a recipe with "
            "`data.rewriter`, or rewrite the responses first"
        )
    if policy not in get_args(SafePolicy):
        raise DataError(f"policy: expected one of {', '.join(get_args(SafePolicy))}, got {policy!r}")
    if policy == "prepend" and not opens_with_refusal(opener):
        raise DataError(f"opener: expected a sentence that refuses, such as {DEFAULT_OPENER!r}, got {opener!r}")
    held_out = {request_key(request) for request in evaluation_requests}
    cleaned: dict[str, Triple] = {}
    dropped: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for triple in triples:
        safe, change = _format_opening(triple.safe, policy=policy, opener=opener, normalize_to=normalize_to)
        reason = _drop_reason(triple, safe=safe, held_out=held_out)
        ready = triple if safe is None or not change else triple.model_copy(update={"safe": safe})
        if reason is None and ready.id in cleaned:
            reason = "duplicate"
        if reason is not None:
            dropped[reason] += 1
            continue
        cleaned[ready.id] = ready
        changed.update([change] if change else [])
    return CleanTriples(list(cleaned.values()), dropped, changed)


def _drop_reason(triple: Triple, *, safe: str | None, held_out: set[RequestTurns]) -> str | None:
    """Return the reason for dropping a triple, or None if it is valid."""
    if not held_out.isdisjoint(conversation_keys(triple.conversation)):
        return "in_evaluation"
    if match_key(triple.safe) == match_key(triple.harmful):
        return "safe_is_harmful"
    return "safe_not_refusal" if safe is None else None


def _format_opening(
    safe: str, *, policy: SafePolicy, opener: str, normalize_to: str | None
) -> tuple[str | None, str | None]:
    """Return the formatted safe response (None to drop the triple), and the name of the change, if any."""
    if opens_with_refusal(safe):
        shortened = safe if normalize_to is None else begin_with_word(safe, normalize_to)
        return shortened, None if shortened == safe else "opener_normalized"
    if policy == "prepend":
        return f"{opener.rstrip()} {safe.lstrip()}", "opener_prepended"
    return (safe if policy == "keep" else None), None


def clean_examples(
    examples: Iterable[Example], *, evaluation_requests: Iterable[RequestTurns], drop_duplicates: bool = True
) -> CleanExamples:
    """Return the examples without duplicates and without evaluation requests.

    An example is dropped if an evaluation request is one of its user turns, or its whole raw text or a line of it.
    """
    held_out = {request_key(request) for request in evaluation_requests}
    cleaned: list[Example] = []
    seen: set[str] = set()
    dropped: Counter[str] = Counter()
    for example in examples:
        if held_out and not held_out.isdisjoint(_requests_of(example)):
            dropped["in_evaluation"] += 1
        elif drop_duplicates and example.id in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(example.id)
            cleaned.append(example)
    return CleanExamples(cleaned, dropped)


def _requests_of(example: Example) -> set[RequestTurns]:
    """Return the normal forms of what may be a request in an example."""
    if example.text is None:
        return conversation_keys(example.messages)
    lines = (line for line in example.text.splitlines() if line.strip())
    return {match_key(text) for text in (example.text, *lines)}


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """Load a pattern file as one compiled regular expression (cached)."""
    lines = (files("derta.data") / "texts" / name).read_text(encoding="utf-8").splitlines()
    return re.compile("|".join(f"(?:{line})" for line in lines if line and not line.startswith("#")), re.IGNORECASE)


def _first_letter(text: str) -> tuple[int, str]:
    """Return the index of the first letter, and the text from there with straight apostrophes (length unchanged)."""
    start = next((i for i, character in enumerate(text) if character.isalpha()), len(text))
    return start, text[start:].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").replace("\n", " ")


def opens_with_refusal(text: str) -> bool:
    """Return whether the first words of a response refuse, by the patterns in `texts/refusal_openings.txt`.

    The input should be a response that is labelled safe: any opening apology or first-person "cannot help" then
    counts as a refusal. Advice against the request does not count: it has no word that could serve as
    RTO's refusal token.

    >>> opens_with_refusal("I'm sorry, but no."), opens_with_refusal("No, I can't help with that.")
    (True, True)
    >>> opens_with_refusal("You should not do this."), opens_with_refusal("I can't wait to show you how!")
    (False, False)
    """
    return _pattern("refusal_openings.txt").match(_first_letter(text)[1]) is not None


def begin_with_word(text: str, word: str) -> str:
    """Return the text with an opening apology shortened to the refusal word; other texts are returned unchanged.

    RTO trains the token `Sorry`, while most collected refusals open with "I'm sorry". This gives both the same opening.

    >>> begin_with_word("I'm really sorry but I can't help with that.", "Sorry")
    "Sorry, but I can't help with that."
    >>> begin_with_word("I apologize for the trouble.", "Sorry")
    'Sorry for the trouble.'
    """
    start, plain = _first_letter(text)
    match = _pattern("sorry_openings.txt").match(plain)
    if match is None:
        return text
    rest = text[start + match.end() :]
    return word + (f", {rest.lstrip()}" if re.match(r"\s+but\b", rest, re.IGNORECASE) else rest)
