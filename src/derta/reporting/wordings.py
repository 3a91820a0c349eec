"""Titles and explanations of the report's rates, and the better direction of each."""

from __future__ import annotations

from typing import NamedTuple

from derta.reporting.text import sentence_case


class Wording(NamedTuple):
    """Title of a rate, its better direction (`lower`, `higher` or None), and a description of what it counts."""

    title: str
    better: str | None
    counts: str


MALFORMED = (
    "replies with a refusal word of the recipe and no refusal after it, which no judge found harmful: neither answers "
    "nor refusals"
)

EMPTY = "replies without a text: the model closed its turn at once, which is no refusal but a broken model"

# A refusal rate is never titled attack success: only a judge of harm can measure success.
WORDINGS = {
    ("attack", "harmful"): Wording("Attack success", "lower", "replies that the judge found harmful"),
    ("attack", "harmful_any"): Wording(
        "Attack success in any attempt",
        "lower",
        "prompts with a harmful reply among all of their samples, or requests with one among all of their prompts",
    ),
    ("attack", "refused"): Wording(
        "Refusal rate under attack",
        "higher",
        "replies with a refusal at any position; a reply without a refusal may be harmless and one with a late "
        "refusal may be harmful, so this does not measure the success of an attack",
    ),
    ("attack", "malformed"): Wording("Malformed refusals under attack", "lower", MALFORMED),
    ("over_refusal", "malformed"): Wording("Malformed refusals of harmless requests", "lower", MALFORMED),
    ("helpfulness", "malformed"): Wording("Malformed refusals of ordinary requests", "lower", MALFORMED),
    ("attack", "harmful_thought"): Wording(
        "Harmful thoughts", "lower", "thoughts of a reasoning model that are harmful, whatever its answer is"
    ),
    ("attack", "empty"): Wording("Empty replies under attack", "lower", EMPTY),
    ("over_refusal", "empty"): Wording("Empty replies to harmless requests", "lower", EMPTY),
    ("helpfulness", "empty"): Wording("Empty replies to ordinary requests", "lower", EMPTY),
    ("over_refusal", "refused"): Wording("Over-refusal", "lower", "refused harmless requests"),
    ("over_refusal", "partly_refused"): Wording(
        "Partial over-refusal", "lower", "replies to harmless requests that refuse first and then answer"
    ),
    ("over_refusal", "complied"): Wording("Harmless requests answered", "higher", "answered harmless requests"),
    ("over_refusal", "correct"): Wording("Harmless tasks done", "higher", "harmless requests with a correct answer"),
    ("over_refusal", "says_sorry"): Wording(
        "Any “sorry”", "lower", "replies to harmless requests that contain “sorry”, the paper's measure of over-refusal"
    ),
    ("helpfulness", "win_rate"): Wording(
        "Win rate", "higher", "replies that the judge preferred to those of the other model; a tie counts as half"
    ),
    ("analysis", "order_decided"): Wording(
        "Order decided", "lower", "comparisons in which the judge's preference followed the order of the replies"
    ),
    ("helpfulness", "refused"): Wording("Refusals of ordinary requests", "lower", "refused ordinary requests"),
    ("helpfulness", "correct"): Wording("Correct answers", "higher", "correct replies"),
    ("analysis", "late_refusal"): Wording("Late refusals", None, "refusals that start after the first five tokens"),
    ("analysis", "leaked_share"): Wording(
        "Leaked before the refusal",
        "lower",
        "words before the first refusal (without a refusal: all words), as a share of the words of the harmful answer "
        "or else of the reply; a mean of lengths, which does not measure harm",
    ),
    ("analysis", "length_ratio"): Wording(
        "Length of answers",
        None,
        "mean number of tokens of the answers to benign prompts, in percent of that of the method that the others are "
        "compared with; the number below it is that of the replies",
    ),
    ("analysis", "perplexity_ratio"): Wording(
        "Perplexity of held-out answers",
        "lower",
        "perplexity of held-out helpful answers, in percent of that under the method that the others are compared with",
    ),
    ("analysis", "auc"): Wording(
        "Harmful and benign answers told apart",
        "higher",
        "pairs of a harmful and a benign answer of which the harmful one has the higher refusal probability at this "
        "depth: the area under the ROC curve, where 50 % is chance",
    ),
    ("analysis", "degenerate"): Wording("Broken replies", "lower", "replies that degenerate into repetition"),
}


def wording(suite: str, measure: str) -> Wording:
    """Return the wording of a rate; a measure without an entry is titled by its name.

    >>> wording("attack", "harmful").title, wording("analysis", "word_count").title
    ('Attack success', 'Word count')
    """
    counts = f"“{measure}”, as defined by the analysis"
    return WORDINGS.get((suite, measure)) or Wording(sentence_case(measure), None, counts)
