"""Rows that any method may have in addition to its own: counter rows and completion rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING

from derta.data.completions import AnswerPool, Completion, benign_answer, encode_refusal
from derta.data.encoding import EncodedExample
from derta.errors import DataError

if TYPE_CHECKING:
    from derta.chat import ChatFormat, RefusalTokens
    from derta.config import RowConfig
    from derta.data.mixture import TrainingSet
    from derta.records import Example


def num_additional(per_triple: float, *, num_triples: int) -> int:
    """Return the number of completion rows or counter examples.

    >>> num_additional(2.67, num_triples=60), num_additional(0.5, num_triples=3)
    (160, 2)
    """
    return round(per_triple * num_triples)


def take_counter(data: TrainingSet, config: RowConfig) -> list[Example]:
    """Return the counter examples of a training set, each once until all are used.

    Raises:
        DataError: the settings require some, and there are none.
    """
    count = num_additional(config.counter_per_triple, num_triples=len(data.triples))
    if count and not data.counter:
        raise DataError(
            f"counter_per_triple: expected counter examples, got none for {count} counter rows; add benign requests "
            "that look like harmful ones, answered (`data.counter` of a recipe, counter_examples= of a trainer), or "
            "choose a method and settings without counter rows, such as derta"
        )
    return list(islice(cycle(data.counter), count))


def encode_completions(
    data: TrainingSet,
    *,
    config: RowConfig,
    chat: ChatFormat,
    refusals: RefusalTokens,
    benign: Sequence[tuple[Example, Sequence[EncodedExample]]],
) -> list[Completion]:
    """Return the sources of completion rows, one for each triple whose safe response opens with a refusal word.

    None if the settings require no such rows.

    Args:
        data: The training set.
        config: The settings.
        chat: The format of the rows.
        refusals: The refusal words.
        benign: The examples and counter examples of the training set, with their encoded rows.

    Raises:
        DataError: there is no benign answer to break off, or no such triple.
    """
    if not num_additional(config.completion_per_triple, num_triples=len(data.triples)):
        return []
    unique = {example.id: (example, rows) for example, rows in benign}
    if not unique:
        raise DataError(
            "completion_per_triple: expected helpful or counter examples, whose answers are broken off, got none; add "
            "`data.helpful` (examples= of a trainer), or set completion_per_triple to 0"
        )
    pool = AnswerPool(
        tuple(benign_answer(chat, rows, is_text=example.text is not None) for example, rows in unique.values())
    )
    encoded = ((one.id, encode_refusal(chat, one, refusals=refusals)) for one in data.triples)
    sources = [Completion(name, refusal, pool) for name, refusal in encoded if refusal is not None]
    if not sources:
        raise DataError(
            f"completion_per_triple: expected safe responses that start with {' or '.join(refusals.words)}, got none; "
            "normalize the data (`data.normalize`), set refusal_words, or set completion_per_triple to 0"
        )
    return sources
