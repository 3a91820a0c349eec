"""From token ids to training rows: which tokens are read, and which are learned.

The whole method lives here, in one column. A row's `labels` hold what the model is taught to say at each position
(`IGNORE` where nothing is); on harmful text that is the refusal token or nothing, never the text itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from random import Random
from typing import Literal, NamedTuple

from derta.config import RowConfig
from derta.data.encoding import EncodedExample, EncodedTriple, cut_middle
from derta.errors import DataError

IGNORE = -100
Term = Literal["helpful", "safe", "rto"]
TERMS: tuple[Term, ...] = ("helpful", "safe", "rto")
_KEPT_OF_PROMPT = 16


class TrainRow(NamedTuple):
    """One sequence for a causal LM: `labels[i]` is the target for the model's output at i - 1, as Hugging Face has it.

    `term` is the loss term that the row's labels count in. `redraw` is the key of a dropout that the collator must
    draw over the padded row (reference mode only), else None.
    """

    id: str
    term: Term
    input_ids: list[int]
    labels: list[int]
    redraw: str | None = None


class Instance(NamedTuple):
    """Entry of a training set, from which a new row is drawn in every epoch.

    `source_index` is the index of its triple or example; `branch` numbers the safe rows of one triple.
    """

    term: Term
    source: EncodedExample | EncodedTriple
    harmful_prefix: bool
    source_index: int
    branch: int = 0

    @property
    def id(self) -> str:
        """Unique in the training set."""
        return f"{self.term}:{self.source.id}" + (f"#{self.branch}" if self.branch else "")


def instances(
    *,
    triples: Sequence[EncodedTriple],
    examples: Sequence[EncodedExample],
    harmful_prefix: bool = False,
    rto: bool = False,
) -> list[Instance]:
    """What a method of rows trains on: the examples, each triple as (q, r), and as (q, r-hat) if there is `rto`.

    With `harmful_prefix` the safe response also follows the beginning of the harmful one.
    """
    safe = [Instance("safe", triple, harmful_prefix, i) for i, triple in enumerate(triples)]
    refusing = [Instance("rto", triple, False, i) for i, triple in enumerate(triples)] if rto else []
    helpful = [Instance("helpful", example, False, i) for i, example in enumerate(examples)]
    return [*helpful, *safe, *refusing]


def draw_row(instance: Instance, *, config: RowConfig, seed: int, epoch: int) -> TrainRow:
    """The instance's row in an epoch; the same for the same (seed, epoch, id), whoever asks and in whatever order."""
    source = instance.source
    # The released builder draws k once, before training; ours draws it anew in every epoch.
    key = f"{seed}:{0 if config.reference else epoch}:{instance.id}"
    rng = Random(key)  # noqa: S311 - reproducible draws, not secrets
    if isinstance(source, EncodedExample):
        return helpful_row(source, max_length=config.max_length)
    if instance.term == "safe":
        k = 0
        if instance.harmful_prefix:
            draw = _reference_prefix_length if config.reference else _prefix_length
            k = draw(source, config=config, place=instance.source_index, rng=rng)
        return safe_row(source, k=k, max_length=config.max_length)
    if config.reference:
        return reference_rto_row(source, max_length=config.max_length, redraw=f"{seed}:{epoch}:{instance.id}")
    return rto_row(source, max_length=config.max_length, sorry_dropout=config.sorry_dropout, rng=rng)


def _prefix_length(triple: EncodedTriple, *, config: RowConfig, place: int, rng: Random) -> int:
    del place
    has_prefix = rng.random() < config.prefix_share
    return rng.randint(1, len(triple.harmful_ids)) if has_prefix else 0


def _reference_prefix_length(triple: EncodedTriple, *, config: RowConfig, place: int, rng: Random) -> int:
    """Every third triple has no prefix; the others are cut after a random word in [1, words - 2]."""
    del config
    num_words = len(triple.word_cuts) - 1
    if place % 3 == 0 or num_words < 3:
        return 0
    return triple.word_cuts[rng.randint(1, num_words - 2)]


def helpful_row(example: EncodedExample, *, max_length: int) -> TrainRow:
    """Plain MLE on an answer.

    >>> example = EncodedExample("a", prompt_ids=(1, 2), response_ids=(3, 4))
    >>> helpful_row(example, max_length=8).labels
    [-100, -100, 3, 4]
    """
    prompt_ids = cut_middle(
        example.prompt_ids, max(_KEPT_OF_PROMPT, max_length // 2, max_length - len(example.response_ids))
    )
    response_ids = example.response_ids[: max_length - len(prompt_ids)]
    return TrainRow(
        example.id, "helpful", [*prompt_ids, *response_ids], [IGNORE] * len(prompt_ids) + list(response_ids)
    )


def safe_row(triple: EncodedTriple, *, k: int, max_length: int) -> TrainRow:
    """Learn the safe response after the first k tokens of the harmful one, which are read and never learned.

    k = 0 is plain safety tuning. What does not fit is taken from the harmful prefix, then from the middle of the
    prompt, and only then from the end of the safe response, so that the refusal itself always survives.

    Source: arXiv 2407.09121, the first term of Eq. 1 (MLE with harmful response prefix).
    """
    longest_safe = max(len(triple.safe_ids), len(triple.safe_spaced_ids), len(triple.safe_bare_ids))
    k = max(0, min(k, max_length - len(triple.harmful_prompt_ids) - longest_safe))
    if k == 0:
        prompt_ids, safe_ids = triple.prompt_ids, triple.safe_ids
    else:
        prompt_ids = triple.harmful_prompt_ids
        safe_ids = triple.safe_bare_ids if k in triple.bare_positions else triple.safe_spaced_ids
    prompt_ids = cut_middle(prompt_ids, max(_KEPT_OF_PROMPT, max_length - k - len(safe_ids)))
    read_ids = [*prompt_ids, *triple.harmful_ids[:k]]
    safe_ids = safe_ids[: max_length - len(read_ids)]
    return TrainRow(triple.id, "safe", [*read_ids, *safe_ids], [IGNORE] * len(read_ids) + list(safe_ids))


def rto_row(triple: EncodedTriple, *, max_length: int, sorry_dropout: float, rng: Random) -> TrainRow:
    """Learn to break off with a refusal token at every position of a harmful response (RTO).

    The model reads the harmful tokens and is never taught to say them. Each label is left out with probability
    `sorry_dropout`; one at least is kept. Where several refusal words are allowed, one is drawn for each position.

    Source: arXiv 2407.09121, Eq. 2. Eq. 2 stops at |r-hat|, so the closing token's place carries no label here; the
    released code relabels it too (see `reference_rto_row`).
    """
    prompt_ids = cut_middle(
        triple.harmful_prompt_ids, max(_KEPT_OF_PROMPT, max_length // 2, max_length - len(triple.harmful_ids))
    )
    harmful_ids = triple.harmful_ids[: max_length - len(prompt_ids)]
    kept = [rng.random() >= sorry_dropout for _ in harmful_ids]
    kept[rng.randrange(len(kept))] |= not any(kept)
    targets = [
        rng.choice(allowed) if keep else IGNORE
        for keep, allowed in zip(kept, triple.refusal_ids[: len(harmful_ids)], strict=True)
    ]
    return TrainRow(triple.id, "rto", [*prompt_ids, *harmful_ids], [IGNORE] * len(prompt_ids) + targets)


def reference_rto_row(triple: EncodedTriple, *, max_length: int, redraw: str) -> TrainRow:
    """The released code's RTO row: the bare refusal token over all of r-hat and its closing token, dropout to come.

    Source: RobustNLP/DeRTa, run_files/run_clm_llms_derta_llama_drop_5_percent.py (2024), with the id looked up.
    """
    bare_id = triple.refusal_ids[-1][0]
    read_ids = [*triple.harmful_prompt_ids, *triple.harmful_ids, *triple.closing_ids][:max_length]
    num_prompt = min(len(triple.harmful_prompt_ids), max_length)
    labels = [IGNORE] * num_prompt + [bare_id] * (len(read_ids) - num_prompt)
    return TrainRow(triple.id, "rto", read_ids, labels, redraw)


def reference_dropout(labels: Sequence[int], *, padded_length: int, redraw: str) -> list[int]:
    """Keep the labels at ceil(T / 20) places drawn over the whole padded row, its prompt and padding included.

    A short response often keeps none, as in the released code.

    >>> sum(label != IGNORE for label in reference_dropout([5] * 40, padded_length=40, redraw="0:0:a"))
    2
    """
    rng = Random(redraw)  # noqa: S311
    kept = set(rng.sample(range(padded_length), max(1, ceil(padded_length / 20))))
    return [label if i in kept else IGNORE for i, label in enumerate(labels)]


def check_row(row: TrainRow) -> TrainRow:
    """Refuse a row that a loss could not use.

    Raises:
        DataError: lengths differ, the first position carries a label (packing would leak it), or nothing is learned.
    """
    if len(row.input_ids) != len(row.labels) or not row.input_ids:
        raise DataError(
            f"row {row.id}: expected as many labels as tokens, got {len(row.labels)} and {len(row.input_ids)}"
        )
    if row.labels[0] != IGNORE:
        raise DataError(f"row {row.id}: expected a prompt before the first label, got none; check the chat template")
    if row.redraw is None and all(label == IGNORE for label in row.labels):
        raise DataError(f"row {row.id} ({row.term}): every label is masked; raise max_length or drop the row")
    return row
