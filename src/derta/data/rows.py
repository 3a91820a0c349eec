"""Training rows with input ids and labels, built from token ids.

The whole training method is in the `labels`: they hold the target token at each position (`IGNORE` without a target).
On harmful text the label is the refusal token or `IGNORE`, never the harmful token itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import NamedTuple

from derta.config import RowConfig
from derta.data.completions import Completion, completion_row, longest_start
from derta.data.encoding import EncodedExample
from derta.data.reference_rows import reference_dropout as reference_dropout
from derta.data.reference_rows import reference_prefix_length
from derta.data.reference_rows import reference_rto_row as reference_rto_row
from derta.data.rto_rows import rto_row as rto_row
from derta.data.train_row import IGNORE as IGNORE
from derta.data.train_row import TERMS as TERMS
from derta.data.train_row import Term as Term
from derta.data.train_row import TrainRow as TrainRow
from derta.data.train_row import check_row as check_row
from derta.data.triple_encoding import EncodedTriple
from derta.data.truncation import MIN_PROMPT_TOKENS, cut_middle


class Instance(NamedTuple):
    """Entry of a training set, from which a new row is sampled in every epoch.

    `source_index` is the index of its triple or example; `branch` numbers the safe or completion rows of one triple,
    and the copies of a counter example.
    """

    term: Term
    source: EncodedExample | EncodedTriple | Completion
    harmful_prefix: bool
    source_index: int
    branch: int = 0

    @property
    def id(self) -> str:
        """Unique id in the training set."""
        return f"{self.term}:{self.source.id}" + (f"#{self.branch}" if self.branch else "")

    @property
    def is_of_triple(self) -> bool:
        """Whether the row is one of a triple's own, which start with the same request (see `data.tree`)."""
        return self.term in ("safe", "rto")

    @property
    def varies(self) -> bool:
        """Whether the length of the row is drawn again in every epoch."""
        return self.harmful_prefix or self.term == "completion"


def instances(
    *,
    triples: Sequence[EncodedTriple],
    examples: Sequence[EncodedExample],
    counter: Sequence[Sequence[EncodedExample]] = (),
    completions: Sequence[Completion] = (),
    num_completions: int = 0,
    harmful_prefix: bool = False,
    rto: bool = False,
) -> list[Instance]:
    """Return the instances of a method: the examples, each triple as (q, r), and with `rto` also as (q, r-hat).

    With `harmful_prefix`, the safe response may follow a prefix of the harmful one. The rows of each counter example
    are taken as often as it is listed. The completions are taken in turn, `num_completions` in all.
    """
    safe = [Instance("safe", triple, harmful_prefix, i) for i, triple in enumerate(triples)]
    refusing = [Instance("rto", triple, False, i) for i, triple in enumerate(triples)] if rto else []
    helpful = [Instance("helpful", example, False, i) for i, example in enumerate(examples)]
    completing = [
        Instance("completion", completions[i % len(completions)], False, i % len(completions), i // len(completions))
        for i in range(num_completions)
    ]
    return [*helpful, *safe, *refusing, *completing, *_counter_instances(counter)]


def _counter_instances(counter: Sequence[Sequence[EncodedExample]]) -> list[Instance]:
    """Return an instance of each row of the counter examples, whose copies are numbered."""
    seen: Counter[str] = Counter()
    found: list[Instance] = []
    for i, rows in enumerate(counter):
        found += [Instance("counter", row, False, i, seen[rows[0].id]) for row in rows]
        seen[rows[0].id] += 1
    return found


def draw_row(instance: Instance, *, config: RowConfig, seed: int, epoch: int) -> TrainRow:
    """Return the instance's row in an epoch. It depends on (seed, epoch, id) only, not on the order or the worker."""
    source = _placed(instance, config=config, seed=seed, epoch=epoch)
    # The released builder samples k once, before training; ours samples it again in every epoch.
    key = f"{seed}:{0 if config.reference else epoch}:{instance.id}"
    rng = Random(key)  # noqa: S311 - reproducible draws, not secrets
    if isinstance(source, EncodedExample):
        return helpful_row(source, max_length=config.max_length, term=instance.term)
    if isinstance(source, Completion):
        answer = rng.choice(source.pool.answers)
        k = rng.randint(1, longest_start(answer, source.refusal, max_length=config.max_length))
        return completion_row(source.refusal, answer, name=source.id, k=k, max_length=config.max_length)
    if instance.term == "safe":
        k = 0
        if instance.harmful_prefix and config.reference:
            k = reference_prefix_length(source, source_index=instance.source_index, rng=rng)
        elif instance.harmful_prefix:
            k = _prefix_length(source, config=config, rng=rng)
        return safe_row(source, k=k, max_length=config.max_length)
    if config.reference:
        return reference_rto_row(source, max_length=config.max_length, redraw=f"{seed}:{epoch}:{instance.id}")
    return rto_row(
        source,
        max_length=config.max_length,
        sorry_dropout=config.sorry_dropout,
        sorry_dropout_end=config.sorry_dropout_end,
        rng=rng,
        as_set=config.rto_targets == "set",
    )


def _placed(
    instance: Instance, *, config: RowConfig, seed: int, epoch: int
) -> EncodedExample | EncodedTriple | Completion:
    """Return the source of an instance's row.

    With `earlier_turn_share`, some triples are split over two turns; with `refuse_in: both`, half of them are refused
    in the thought. All rows of a triple in an epoch have the same source.
    """
    source = instance.source
    if isinstance(source, EncodedTriple) and source.in_thought is not None:
        rng = Random(f"{seed}:{epoch}:place:{source.id}")  # noqa: S311
        source = source.in_thought if rng.random() < 0.5 else source
    if not isinstance(source, EncodedTriple) or source.split is None or not _reads_harm(instance):
        return source
    rng = Random(f"{seed}:{epoch}:earlier:{source.id}")  # noqa: S311
    return source.split if rng.random() < config.earlier_turn_share else source


def _reads_harm(instance: Instance) -> bool:
    return instance.harmful_prefix or instance.term == "rto"


def max_tokens(row: Instance | TrainRow, *, config: RowConfig) -> int:
    """Return the maximum number of tokens of an instance's rows, over all draws.

    >>> example = EncodedExample("a", prompt_ids=(1, 2), response_ids=(3, 4))
    >>> max_tokens(Instance("helpful", example, False, 0), config=RowConfig())
    4
    """
    if isinstance(row, TrainRow):
        return len(row.input_ids)
    source = row.source
    if isinstance(source, EncodedTriple) and source.in_thought is not None:
        either = (source.in_thought, replace(source, in_thought=None))
        return max(max_tokens(row._replace(source=one), config=config) for one in either)
    if isinstance(source, EncodedTriple) and source.split is not None and _reads_harm(row):
        placed = (source.split, replace(source, split=None))
        return max(max_tokens(row._replace(source=one), config=config) for one in placed)
    if isinstance(source, EncodedExample):
        longest = len(source.prompt_ids) + len(source.response_ids)
    elif isinstance(source, Completion):
        longest = source.pool.longest + source.refusal.longest
    elif row.term == "rto":
        closing = len(source.closing_ids) if config.reference else 0
        longest = len(source.harmful_prompt_ids) + len(source.harmful_ids) + closing
    elif row.harmful_prefix:
        after = max(len(ids) for ids in (source.safe_ids, source.safe_spaced_ids, source.safe_bare_ids))
        longest = len(source.harmful_prompt_ids) + _longest_prefix(source, config) + after
    else:
        longest = len(source.prompt_ids) + len(source.safe_ids)
    return min(longest, config.max_length)


def _prefix_length(triple: EncodedTriple, *, config: RowConfig, rng: Random) -> int:
    """Sample the prefix length k in tokens: 0 with probability 1 - `prefix_share`, else uniform in [1, |r-hat|].

    With `max_prefix` it is uniform in [1, min(|r-hat|, max_prefix)].
    """
    has_prefix = rng.random() < config.prefix_share
    return rng.randint(1, _longest_prefix(triple, config)) if has_prefix else 0


def _longest_prefix(triple: EncodedTriple, config: RowConfig) -> int:
    return min(len(triple.harmful_ids), config.max_prefix or len(triple.harmful_ids))


def helpful_row(example: EncodedExample, *, max_length: int, term: Term = "helpful") -> TrainRow:
    """Return a row of standard next-token loss (MLE) on an answer, or on all answers of a conversation.

    Counter rows are such rows too, of the term `counter`. L = - sum_i log P(a_i | q, a_<i).

    Truncation removes tokens from the middle of the prompt, down to half the length, and then from the end.

    >>> example = EncodedExample("a", prompt_ids=(1, 2), response_ids=(3, 4))
    >>> helpful_row(example, max_length=8).labels
    [-100, -100, 3, 4]
    """
    prompt_ids, response_ids = _cut_helpful(example, max_length=max_length)
    learned = example.learned or (True,) * len(example.response_ids)
    labels = [token if has_label else IGNORE for token, has_label in zip(response_ids, learned, strict=False)]
    return TrainRow(example.id, term, [*prompt_ids, *response_ids], [IGNORE] * len(prompt_ids) + labels)


def _cut_helpful(example: EncodedExample, *, max_length: int) -> tuple[Sequence[int], Sequence[int]]:
    room = max(MIN_PROMPT_TOKENS, max_length // 2, max_length - len(example.response_ids))
    prompt_ids = cut_middle(example.prompt_ids, room)
    return prompt_ids, example.response_ids[: max_length - len(prompt_ids)]


class Cut(NamedTuple):
    """What truncation removes from a helpful row: some of its answers, and the closing token of the last."""

    answers: int
    lost_answers: int


def cut_of(example: EncodedExample, *, max_length: int) -> Cut | None:
    """Return what truncation removes from the answers of a helpful row; None if they remain whole.

    >>> example = EncodedExample("a", (1,), (3, 4, 5, 6), (True, True, False, True), turns=2)
    >>> cut_of(example, max_length=4), cut_of(example, max_length=5)
    (Cut(answers=2, lost_answers=1), None)
    """
    learned = example.learned or (True,) * len(example.response_ids)
    remaining = learned[: len(_cut_helpful(example, max_length=max_length)[1])]
    if all(not has_label for has_label in learned[len(remaining) :]):
        return None
    return Cut(example.turns, example.turns - _runs(remaining))


def _runs(flags: Sequence[bool]) -> int:
    """Return the number of runs of True."""
    return sum(flag and not before for before, flag in pairwise([False, *flags]))


def safe_row(triple: EncodedTriple, *, k: int, max_length: int) -> TrainRow:
    """Return a row with loss on the safe response after the first k tokens of the harmful one, which have no labels.

    k = 0 is standard safety tuning. Truncation removes tokens of the harmful prefix first, then of the middle of the
    prompt, and only then of the end of the safe response, so that the start of the refusal always remains.

    Source: arXiv 2407.09121, the first term of Eq. 1 (MLE with harmful response prefix).
    """
    longest_safe = max(len(triple.safe_ids), len(triple.safe_spaced_ids), len(triple.safe_bare_ids))
    k = max(0, min(k, max_length - len(triple.harmful_prompt_ids) - longest_safe))
    if k == 0:
        prompt_ids, safe_ids = triple.prompt_ids, triple.safe_ids
    else:
        prompt_ids = triple.harmful_prompt_ids
        safe_ids = triple.safe_bare_ids if k in triple.bare_positions else triple.safe_spaced_ids
    prompt_ids = cut_middle(prompt_ids, max(MIN_PROMPT_TOKENS, max_length - k - len(safe_ids)))
    read_ids = [*prompt_ids, *triple.harmful_ids[:k]]
    safe_ids = safe_ids[: max_length - len(read_ids)]
    return TrainRow(triple.id, "safe", [*read_ids, *safe_ids], [IGNORE] * len(read_ids) + list(safe_ids))
