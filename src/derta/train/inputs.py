"""Conversion of a trainer's inputs to rows: encode triples and examples, validate tokenized rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from derta.chat import ChatFormat, chat_format, refusal_tokens
from derta.data.mixture import TrainingSet
from derta.data.rows import IGNORE, Instance, TrainRow
from derta.errors import DataError, RecipeError
from derta.loading import load_tokenizer, position_limit
from derta.methods import Method, find_method
from derta.records import Example, Triple
from derta.train.checks import Derived
from derta.train.config import DertaConfig
from derta.train.dataset import RowDataset, parse_rows

Rows = Sequence[Instance] | Sequence[TrainRow] | Sequence[dict[str, Any]] | Dataset[Any]


def row_method_of(config: Any) -> Method:
    """Return the config's method, if it trains on rows.

    Raises:
        RecipeError: not a `DertaConfig`, or a method that `DertaTrainer` cannot train.
    """
    if not isinstance(config, DertaConfig):
        raise RecipeError(f"args: expected a DertaConfig, got {type(config).__name__}; create one with these settings")
    method = find_method(config.method)
    if method.trainer is not None:
        raise RecipeError(f"method: {method.name} has a separate trainer; use derta.methods.tune")
    if not method.trains:
        raise RecipeError(f"method: expected one that trains, got {method.name}, which is the untrained model")
    return method


def tokenizer_of(model: Any, config: DertaConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model that is a name, a folder, or was loaded from one.

    Raises:
        RecipeError: the model was created in memory.
    """
    name = str(model) if isinstance(model, str | Path) else str(getattr(model, "name_or_path", ""))
    if not name:
        raise RecipeError("processing_class: expected the tokenizer of a model created in memory, got none; pass it")
    return load_tokenizer(name, trust_remote_code=config.trust_remote_code)


def chat_of(tokenizer: PreTrainedTokenizerBase, config: DertaConfig) -> ChatFormat:
    """Return the chat format of the tokenizer with the config's template."""
    return chat_format(
        tokenizer, template=config.template, template_kwargs=config.template_kwargs, date=config.template_date
    )


def encode(
    data: TrainingSet,
    *,
    tokenized: Rows | None,
    what: str,
    tokenizer: PreTrainedTokenizerBase,
    config: DertaConfig,
) -> RowDataset:
    """Encode a training set as a dataset of rows; tokenized rows are used unchanged.

    Args:
        data: Triples, examples and counter examples to encode.
        tokenized: Rows to use instead.
        what: Names of the caller's arguments, for the error message.
        tokenizer: The model's tokenizer.
        config: Training configuration.

    Raises:
        DataError: both kinds of data or none, a safe response that starts with no refusal word, or an invalid row.
    """
    data = TrainingSet(
        _records(data.triples, Triple, "triples"),
        _records(data.examples, Example, "examples"),
        counter=_records(data.counter, Example, "counter_examples"),
    )
    has_records = bool(data.triples or data.examples or data.counter)
    if has_records == (tokenized is not None):
        raise DataError(f"expected {what}, got {'both' if has_records else 'none'}; pass either rows or records")
    if tokenized is not None:
        return dataset_from_rows(tokenized, config=config)
    check_refusal_openings(data.triples, config.refusal_words)
    chat = chat_of(tokenizer, config)
    refusals = refusal_tokens(chat, config.refusal_words)
    rows = _not_empty(row_method_of(config).dataset(data, chat=chat, refusals=refusals, config=config))
    return RowDataset(parse_rows(rows), config=config, seed=config.rows_seed)


def encode_evaluation(
    data: TrainingSet,
    *,
    tokenized: Rows | Mapping[str, Rows] | None,
    tokenizer: PreTrainedTokenizerBase,
    config: DertaConfig,
) -> RowDataset | dict[str, RowDataset] | None:
    """Encode the evaluation data: one dataset, or several by name; None without data.

    Without counter examples there are no counter rows, and without any examples no completion rows.

    Raises:
        DataError: as in `encode`.
        RecipeError: no data, and the config enables evaluation.
    """
    if isinstance(tokenized, Mapping) and not any(data):
        return {name: dataset_from_rows(rows, config=config) for name, rows in tokenized.items()}
    if tokenized is None and not any(data):
        if config.eval_strategy != "no" or config.eval_on_start:
            raise RecipeError(
                "eval_strategy, eval_on_start: expected eval_triples=, eval_examples= or eval_dataset= for evaluation, "
                "got none; pass one, or remove these settings"
            )
        return None
    what = "eval_triples=, eval_examples= or eval_dataset="
    config = copy(config)  # terms that the evaluation data has nothing for are not evaluated
    data = data._replace(examples=list(data.examples), counter=list(data.counter))
    config.counter_per_triple = config.counter_per_triple if data.counter else 0.0
    config.completion_per_triple = config.completion_per_triple if data.examples or data.counter else 0.0
    return encode(data, tokenized=tokenized, what=what, tokenizer=tokenizer, config=config)  # type: ignore[arg-type]


def dataset_from_rows(rows: Any, *, config: DertaConfig) -> RowDataset:
    """Build a dataset of tokenized rows.

    Raises:
        DataError: an invalid row, or no rows.
    """
    parsed = _not_empty(parse_rows(rows))
    for row in parsed:
        if isinstance(row, TrainRow) and len(row.input_ids) > config.max_length:
            raise DataError(
                f"row {row.id}: expected at most max_length ({config.max_length}) tokens, got {len(row.input_ids)}; "
                "truncate it, or increase max_length"
            )
    return RowDataset(parsed, config=config, seed=config.rows_seed)


def check_ids(rows: RowDataset, net: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Validate that every token id has an embedding; on a GPU the error would be unreadable.

    Rows that the tokenizer encoded are skipped if it has no more tokens than the model.

    Raises:
        DataError: a token id outside the vocabulary; the message names the row.
    """
    base: Any = net.get_base_model() if isinstance(net, PeftModel) else net
    vocab_size = int(base.config.get_text_config().vocab_size)
    if not rows.is_tokenized and len(tokenizer) <= vocab_size:
        return
    for index in range(len(rows)):
        row = rows[0, index]
        labels = row.labels if isinstance(row, TrainRow) else ()
        invalid = [token for token in (*row.input_ids, *labels) if token != IGNORE and not 0 <= token < vocab_size]
        if invalid:
            raise DataError(
                f"row {row.id}: expected token ids below the model's vocabulary ({vocab_size}), got {invalid[0]}; pass "
                "the model's tokenizer, or resize the model's embeddings"
            )


def check_lengths(rows: RowDataset, net: PreTrainedModel | PeftModel, *, max_length: int) -> None:
    """Validate that no row, in any epoch, is longer than the model's positions; learned ones have no more embeddings.

    Raises:
        DataError: a row is longer; the message names it.
    """
    limit = position_limit(net.config)
    if limit is not None and limit < max_length:
        check_longest(*rows.longest(), limit=limit)


def check_longest(name: str, length: int, *, limit: int) -> None:
    """Validate the length of the longest row.

    Raises:
        DataError: it is longer than the model's positions.
    """
    if length > limit:
        raise DataError(
            f"row {name}: {length} tokens are more than the model's {limit} positions; set max_length to {limit} or "
            "less"
        )


def check_refusal_openings(triples: Sequence[Triple], words: Sequence[str]) -> None:
    """Validate that every safe response starts with a refusal word, which the RTO rows switch to.

    Raises:
        DataError: names the first invalid triple, and their number.
    """
    invalid = [triple for triple in triples if not triple.safe.lstrip().startswith(tuple(words))]
    if invalid:
        raise DataError(
            f"triple {invalid[0].id}: expected a safe response that starts with {' or '.join(words)}, got "
            f"{invalid[0].safe[:40]!r} ({len(invalid)} of {len(triples)} triples); prepare the data with "
            "derta.prepare, or set refusal_words"
        )


def micro_batches_per_step(rows: RowDataset, config: DertaConfig) -> Derived:
    """Return the gradient accumulation steps with which a step has about `step_tokens` tokens."""
    mean = sum(rows.length(0, index) for index in range(len(rows))) / len(rows)
    rows_per_round = config.per_device_train_batch_size * config.world_size
    return Derived(max(1, round((config.step_tokens or 0) / mean / rows_per_round)))


def _records(values: Any, kind: type, what: str) -> list[Any]:
    """Return the records as a list, so that an iterator is read once."""
    records = list(values)
    invalid = next((record for record in records if not isinstance(record, kind)), None)
    if invalid is not None:
        raise DataError(
            f"{what}: expected records ({kind.__name__}), got {type(invalid).__name__}; load files and "
            f"datasets with derta.load_{kind.__name__.lower()}s"
        )
    return records


def _not_empty(rows: Any) -> Any:
    if not rows:
        raise DataError("expected rows for training or evaluation, got none; add data")
    return rows
