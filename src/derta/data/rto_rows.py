"""RTO rows: a refusal token is the target at every position of a harmful response."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from derta.data.train_row import IGNORE, TrainRow
from derta.data.triple_encoding import EncodedTriple
from derta.data.truncation import MIN_PROMPT_TOKENS, cut_middle


def rto_row(
    triple: EncodedTriple,
    *,
    max_length: int,
    sorry_dropout: float,
    rng: Random,
    sorry_dropout_end: float | None = None,
    as_set: bool = False,
) -> TrainRow:
    """Return a row whose label is a refusal token at every position of a harmful response (RTO).

    The harmful tokens are inputs only, never labels. Harmful earlier turns have such labels too. Each label is dropped
    with probability `sorry_dropout`; at least one of the response's remains. With several valid refusal words, one is
    sampled for each position; with `as_set` the others are its `alternatives`. A token is valid if it starts a refusal
    word there: after text the form with a leading space, after white space the one without, so that no word is glued to
    the text.
    With `sorry_dropout_end` the probability is linear in the depth t of T tokens:
    d_t = d_1 + (d_T - d_1) (t - 1) / (T - 1).

    Source: arXiv 2407.09121, Eq. 2. Eq. 2 stops at |r-hat|, so the closing token's position has no label here; the
    released code relabels it too (see `reference_rto_row`).
    """
    num_prompt = max(MIN_PROMPT_TOKENS, max_length // 2, max_length - len(triple.harmful_ids))
    prompt_ids = cut_middle(triple.harmful_prompt_ids, num_prompt)
    harmful_ids = triple.harmful_ids[: max_length - len(prompt_ids)]
    dropout = _dropout_by_depth(len(harmful_ids), sorry_dropout, sorry_dropout_end)
    has_label = [rng.random() >= share for share in dropout]
    has_label[rng.randrange(len(has_label))] |= not any(has_label)
    targets = [
        rng.choice(valid_ids) if labelled else IGNORE
        for labelled, valid_ids in zip(has_label, triple.refusal_ids[: len(harmful_ids)], strict=True)
    ]
    earlier = cut_middle(triple.earlier_refusals, num_prompt) or [()] * len(prompt_ids)
    earlier_targets = [
        rng.choice(valid_ids) if valid_ids and rng.random() >= sorry_dropout else IGNORE for valid_ids in earlier
    ]
    labels = earlier_targets + targets
    valid = [*earlier, *triple.refusal_ids[: len(harmful_ids)]]
    alternatives = _alternatives(labels, valid) if as_set else None
    return TrainRow(triple.id, "rto", [*prompt_ids, *harmful_ids], labels, alternatives=alternatives)


def _alternatives(labels: Sequence[int], valid: Sequence[Sequence[int]]) -> dict[int, tuple[int, ...]]:
    """Return by position the valid refusal tokens other than the label, where there are some.

    >>> _alternatives([IGNORE, 5, 5, 6], [(), (5, 6, 5), (5,), (5, 6)])
    {1: (6,), 3: (5,)}
    """
    others = {
        place: tuple(dict.fromkeys(token for token in tokens if token != label))
        for place, (label, tokens) in enumerate(zip(labels, valid, strict=True))
        if label != IGNORE
    }
    return {place: tokens for place, tokens in others.items() if tokens}


def _dropout_by_depth(length: int, first: float, last: float | None) -> list[float]:
    """Return the dropout at each token of a harmful response.

    >>> _dropout_by_depth(3, 1.0, 0.5), _dropout_by_depth(1, 1.0, 0.5), _dropout_by_depth(2, 0.5, None)
    ([1.0, 0.75, 0.5], [1.0], [0.5, 0.5])
    """
    if last is None or length == 1:
        return [first] * length
    return [first + (last - first) * t / (length - 1) for t in range(length)]
