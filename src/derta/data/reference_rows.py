"""Rows as the released code builds them (`reference: true`), for comparison."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from random import Random

from derta.data.train_row import IGNORE, TrainRow
from derta.data.triple_encoding import EncodedTriple


def reference_prefix_length(triple: EncodedTriple, *, source_index: int, rng: Random) -> int:
    """Sample k as in the released code: 0 for every third triple, else a cut after a random word in [1, words - 2]."""
    num_words = len(triple.word_cuts) - 1
    if source_index % 3 == 0 or num_words < 3:
        return 0
    return triple.word_cuts[rng.randint(1, num_words - 2)]


def reference_rto_row(triple: EncodedTriple, *, max_length: int, redraw: str) -> TrainRow:
    """Return the RTO row of the released code: the bare refusal token over r-hat and its closing token, before dropout.

    Source: RobustNLP/DeRTa, run_files/run_clm_llms_derta_llama_drop_5_percent.py (2024), with the id looked up.
    """
    bare_id = triple.refusal_ids[-1][0]
    read_ids = [*triple.harmful_prompt_ids, *triple.harmful_ids, *triple.closing_ids][:max_length]
    num_prompt = min(len(triple.harmful_prompt_ids), max_length)
    labels = [IGNORE] * num_prompt + [bare_id] * (len(read_ids) - num_prompt)
    return TrainRow(triple.id, "rto", read_ids, labels, redraw)


def reference_dropout(labels: Sequence[int], *, padded_length: int, redraw: str) -> list[int]:
    """Return the labels at ceil(T / 20) positions sampled from the whole padded row, prompt and padding included.

    As in the released code, a short response often has no label left.

    >>> sum(label != IGNORE for label in reference_dropout([5] * 40, padded_length=40, redraw="0:0:a"))
    2
    """
    rng = Random(redraw)  # noqa: S311
    positions = set(rng.sample(range(padded_length), max(1, ceil(padded_length / 20))))
    return [label if i in positions else IGNORE for i, label in enumerate(labels)]
