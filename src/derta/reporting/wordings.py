"""What the report calls each rate, and which way is better."""

from __future__ import annotations

from typing import NamedTuple

from derta.reporting.text import plain


class Wording(NamedTuple):
    """What a rate is called, which way is better (None: neither), and what it counts."""

    title: str
    better: str | None
    counts: str


# A rate of refusals is never called attack success: only a judge of harm can tell success.
WORDINGS = {
    ("attack", "harmful"): Wording("Attack success", "lower", "replies that the judge found harmful"),
    ("attack", "refused"): Wording(
        "Refusal rate under attack",
        "higher",
        "replies that refuse somewhere; a reply without a refusal need not be harmful, "
        "and one with a late refusal may be, so this does not say how often an attack succeeds",
    ),
    ("over_refusal", "refused"): Wording("Over-refusal", "lower", "harmless requests that were refused"),
    ("over_refusal", "partly_refused"): Wording(
        "Partial over-refusal", "lower", "replies to harmless requests that refuse and then answer after all"
    ),
    ("over_refusal", "complied"): Wording(
        "Harmless requests answered", "higher", "harmless requests that were answered"
    ),
    ("over_refusal", "correct"): Wording("Harmless tasks done", "higher", "harmless requests whose answer was correct"),
    ("over_refusal", "says_sorry"): Wording(
        "Any “sorry”", "lower", "replies to harmless requests with a “sorry” anywhere, as the paper counts over-refusal"
    ),
    ("helpfulness", "win_rate"): Wording(
        "Win rate", "higher", "replies that a judge would rather have than the other model's, ties by half"
    ),
    ("analysis", "order_decided"): Wording(
        "Order decided", "lower", "comparisons in which the judge preferred a place, not a reply"
    ),
    ("helpfulness", "refused"): Wording(
        "Refusals of ordinary requests", "lower", "ordinary requests that were refused"
    ),
    ("helpfulness", "correct"): Wording("Correct answers", "higher", "replies that were correct"),
    ("analysis", "late_refusal"): Wording("Late refusals", None, "refusals that begin after the first five tokens"),
    ("analysis", "leaked_share"): Wording(
        "Leaked before the refusal",
        "lower",
        "words before the first refusal (all, where there is none) as a share of the harmful answer's, or else of the "
        "reply's; a mean of lengths, which says nothing of harm",
    ),
    ("analysis", "degenerate"): Wording("Broken replies", "lower", "replies that break down into repetition"),
}


def wording(suite: str, measure: str) -> Wording:
    """The words for a rate; what no table foresees keeps the measure's own name.

    >>> wording("attack", "harmful").title, wording("analysis", "word_count").title
    ('Attack success', 'Word count')
    """
    return WORDINGS.get((suite, measure)) or Wording(plain(measure), None, f"“{measure}”, as the analysis defines it")
