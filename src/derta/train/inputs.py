"""What a trainer is given, as rows: triples and examples are encoded, ready rows are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from derta.chat import ChatFormat, chat_format, refusal_tokens
from derta.data.mixture import TrainingSet
from derta.data.rows import IGNORE, Instance, TrainRow
from derta.errors import DataError, RecipeError
from derta.loading import load_tokenizer
from derta.methods import Method, find_method
from derta.records import Example, Triple
from derta.train.checks import Derived
from derta.train.config import DertaConfig
from derta.train.dataset import RowDataset, parse_rows

Rows = Sequence[Instance] | Sequence[TrainRow] | Sequence[dict[str, Any]] | Dataset[Any]


def row_method_of(config: Any) -> Method:
    """The config's method, which trains on rows.

    Raises:
        RecipeError: the config is not derta's, or the method is none that `DertaTrainer` trains.
    """
    if not isinstance(config, DertaConfig):
        raise RecipeError(f"args: expected a DertaConfig, got {type(config).__name__}; make one with these settings")
    method = find_method(config.method)
    if method.trainer is not None:
        raise RecipeError(f"method: {method.name} has a trainer of its own; use derta.methods.tune")
    if not method.trains:
        raise RecipeError(f"method: expected one that trains, got {method.name}, which is the model as it is")
    return method


def tokenizer_of(model: Any, config: DertaConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that is given by name, or was loaded from somewhere.

    Raises:
        RecipeError: the model was made in memory.
    """
    name = str(model) if isinstance(model, str | Path) else str(getattr(model, "name_or_path", ""))
    if not name:
        raise RecipeError("processing_class: expected the tokenizer of a model made in memory, got none; give it")
    return load_tokenizer(name, trust_remote_code=config.trust_remote_code)


def chat_of(tokenizer: PreTrainedTokenizerBase, config: DertaConfig) -> ChatFormat:
    """The tokenizer bound to the config's template."""
    return chat_format(tokenizer, template=config.template, template_kwargs=config.template_kwargs)


def encode(
    triples: Sequence[Triple],
    examples: Sequence[Example],
    *,
    ready: Rows | None,
    what: str,
    tokenizer: PreTrainedTokenizerBase,
    config: DertaConfig,
) -> RowDataset:
    """A training set as rows; ready rows are taken as they are.

    Raises:
        DataError: both or neither, a safe response that opens with no refusal word, or a row that cannot be trained on.
    """
    data = TrainingSet(_records(triples, Triple, "triples"), _records(examples, Example, "examples"))
    given = bool(data.triples or data.examples)
    if given == (ready is not None):
        raise DataError(f"expected {what}, got {'both' if given else 'none'}; give rows, or what they are made of")
    if ready is not None:
        return dataset_from_rows(ready, config=config)
    check_refusal_openings(data.triples, config.refusal_words)
    chat = chat_of(tokenizer, config)
    refusals = refusal_tokens(chat, config.refusal_words)
    rows = _some(row_method_of(config).dataset(data, chat=chat, refusals=refusals, config=config))
    return RowDataset(parse_rows(rows), config=config, seed=config.rows_seed)


def encode_evaluation(
    triples: Sequence[Triple],
    examples: Sequence[Example],
    *,
    ready: Rows | Mapping[str, Rows] | None,
    tokenizer: PreTrainedTokenizerBase,
    config: DertaConfig,
) -> RowDataset | dict[str, RowDataset] | None:
    """What is evaluated on, several sets by name among it; None: nothing.

    Raises:
        DataError: as `encode`.
        RecipeError: nothing is given, and the config evaluates.
    """
    if isinstance(ready, Mapping) and not (triples or examples):
        return {name: dataset_from_rows(rows, config=config) for name, rows in ready.items()}
    if ready is None and not (triples or examples):
        if config.eval_strategy != "no" or config.eval_on_start:
            raise RecipeError(
                "eval_strategy, eval_on_start: expected eval_triples=, eval_examples= or eval_dataset= to evaluate on, "
                "got none; give some, or leave them out"
            )
        return None
    what = "eval_triples=, eval_examples= or eval_dataset="
    return encode(triples, examples, ready=ready, what=what, tokenizer=tokenizer, config=config)  # type: ignore[arg-type]


def dataset_from_rows(ready: Any, *, config: DertaConfig) -> RowDataset:
    """Ready rows as a data set.

    Raises:
        DataError: a row that cannot be trained on, or none.
    """
    rows = _some(parse_rows(ready))
    for row in rows:
        if isinstance(row, TrainRow) and len(row.input_ids) > config.max_length:
            raise DataError(
                f"row {row.id}: expected at most max_length ({config.max_length}) tokens, got {len(row.input_ids)}; "
                "cut it, or raise max_length"
            )
    return RowDataset(rows, config=config, seed=config.rows_seed)


def check_ids(rows: RowDataset, net: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make sure that the model has an embedding for each token: a GPU would tell it in no readable way.

    Rows that the tokenizer made need no look, if it has no more tokens than the model.

    Raises:
        DataError: it has not; the row is named.
    """
    base: Any = net.get_base_model() if isinstance(net, PeftModel) else net
    vocab_size = int(base.config.get_text_config().vocab_size)
    if not rows.ready and len(tokenizer) <= vocab_size:
        return
    for index in range(len(rows)):
        row = rows[0, index]
        labels = row.labels if isinstance(row, TrainRow) else ()
        wrong = [token for token in (*row.input_ids, *labels) if token != IGNORE and not 0 <= token < vocab_size]
        if wrong:
            raise DataError(
                f"row {row.id}: expected token ids below the model's vocabulary ({vocab_size}), got {wrong[0]}; give "
                "the model's own tokenizer, or resize the model's embeddings"
            )


def check_refusal_openings(triples: Sequence[Triple], words: Sequence[str]) -> None:
    """Refuse triples whose safe response does not open with a refusal word: RTO would have nothing to go on to.

    Raises:
        DataError: it names the first, and how many there are.
    """
    wrong = [triple for triple in triples if not triple.safe.lstrip().startswith(tuple(words))]
    if wrong:
        raise DataError(
            f"triple {wrong[0].id}: expected a safe response that opens with {' or '.join(words)}, got "
            f"{wrong[0].safe[:40]!r} ({len(wrong)} of {len(triples)} triples); prepare the data (derta.prepare), or "
            "set refusal_words"
        )


def micro_batches_per_step(rows: RowDataset, config: DertaConfig) -> Derived:
    """Micro-batches of a step of tokens, on each process."""
    mean = sum(rows.length(0, index) for index in range(len(rows))) / len(rows)
    at_once = config.per_device_train_batch_size * config.world_size
    return Derived(max(1, round((config.step_tokens or 0) / mean / at_once)))


def _records(given: Any, kind: type, what: str) -> list[Any]:
    """As a list: what is read once only is read once."""
    records = list(given)
    wrong = next((one for one in records if not isinstance(one, kind)), None)
    if wrong is not None:
        raise DataError(
            f"{what}: expected records ({kind.__name__}), got {type(wrong).__name__}; derta.load_{what} reads files "
            "and data sets"
        )
    return records


def _some(rows: Any) -> Any:
    if not rows:
        raise DataError("expected rows to train or evaluate on, got none; add data")
    return rows
