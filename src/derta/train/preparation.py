"""What a trainer is given, made ready: rows encoded with the model's template, and a model to be trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from derta.chat import ChatFormat, chat_format, refusal_tokens
from derta.data.mixture import TrainingSet
from derta.data.rows import Instance, TrainRow
from derta.errors import DataError, RecipeError
from derta.loading import load_tokenizer
from derta.methods import Method
from derta.records import Triple
from derta.train.adapters import freeze_beside_text, is_4bit, load_base, with_lora
from derta.train.collator import check_packing
from derta.train.config import DertaConfig
from derta.train.dataset import RowDataset, ready_rows
from derta.train.distributed import is_sharded
from derta.train.loss import use_label_loss
from derta.train.memory import loading_advice, out_of_memory_told
from derta.train.tree_attention import check_trees

Rows = Sequence[Instance] | Sequence[TrainRow] | Sequence[dict[str, Any]] | Dataset[Any]


@out_of_memory_told(loading_advice)
def prepare_model(
    model: str | Path | PreTrainedModel | PeftModel,
    config: DertaConfig,
    *,
    refusal_ids: Sequence[int],
    peft_config: PeftConfig | None = None,
) -> PreTrainedModel | PeftModel:
    """A model that can be trained as the config says: loaded, checked, with the label loss, under its adapters.

    Raises:
        ModelError: it cannot be (packing, trees, another head), or there is none.
    """
    net: Any = model
    if isinstance(model, str | Path):
        net = load_base(str(model), config, adapted=peft_config is not None)
    base: Any = net.get_base_model() if isinstance(net, PeftModel) else net
    if base is net:
        freeze_beside_text(base)
    if not (is_sharded() or is_4bit(base) or getattr(base, "hf_device_map", None)):
        nn.Module.to(net, config.device)  # before it is checked: kernels of flash and flex run nowhere else
    flash = config.attn_implementation == "flash_attention_2"  # which knows 16 bits alone
    with torch.autocast(config.device.type, torch.float16 if config.fp16 else torch.bfloat16, enabled=flash):
        if config.pack_tokens and not config.reference:
            check_packing(base, bins=1 if config.one_bin else 2)
        if config.tree_rows:
            check_trees(base, max_length=config.max_length)
        adapted = peft_config is not None or isinstance(net, PeftModel)
        use_label_loss(base, refusal_ids=refusal_ids, in_place=adds_in_place(config, adapted=adapted))
    if config.compile_layers:
        compile_layers(base)
    return net if peft_config is None else with_lora(base, peft_config)


def adds_in_place(config: DertaConfig, *, adapted: bool) -> bool:
    """Whether embeddings' gradients may bypass autograd: no other process, scaler, adapter or hook is to see them.

    On a CPU alone, where it was measured to pay (LOG.md, 16); elsewhere it is not tried.
    """
    alone = config.world_size == 1 and config.device.type == "cpu"
    return alone and not config.fp16 and not adapted and "layerwise" not in str(config.optim)


def compile_layers(net: PreTrainedModel) -> None:
    """Compile each of the model's repeated layers, in place: they share one compiled code for all batch shapes."""
    layers = set(net._no_split_modules or ())  # pyright: ignore[reportPrivateUsage]
    for module in net.modules():
        if type(module).__name__ in layers:
            module.compile(dynamic=True)


def tokenizer_of(model: Any, config: DertaConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer that goes with a model, which is given by name or was loaded from somewhere.

    Raises:
        RecipeError: it was made in memory.
    """
    name = str(model) if isinstance(model, str | Path) else str(getattr(model, "name_or_path", ""))
    if not name:
        raise RecipeError("processing_class: expected the tokenizer of a model made in memory, got none; give it")
    return load_tokenizer(name, trust_remote_code=config.trust_remote_code)


def chat_of(tokenizer: PreTrainedTokenizerBase, config: DertaConfig) -> ChatFormat:
    """The tokenizer in the chat format of a config."""
    return chat_format(tokenizer, template=config.template, template_kwargs=config.template_kwargs)


def encode_rows(
    data: TrainingSet,
    *,
    ready: Rows | None,
    what: str,
    method: Method,
    tokenizer: PreTrainedTokenizerBase,
    config: DertaConfig,
) -> RowDataset:
    """A training set as rows; ready rows are taken as they are.

    Raises:
        DataError: both or neither, or a safe response that opens with no refusal word.
    """
    given = bool(data.triples or data.examples)
    if given == (ready is not None):
        raise DataError(f"expected {what}, got {'both' if given else 'none'}; give rows, or what they are made of")
    rows = ready_rows(ready) if ready is not None else None
    if rows is None:
        check_openings(data.triples, config.refusal_words)
        chat = chat_of(tokenizer, config)
        rows = method.dataset(data, chat=chat, refusals=refusal_tokens(chat, config.refusal_words), config=config)
    if not rows:
        raise DataError(f"expected {what}, got no row; add data")
    return RowDataset(rows, config=config, seed=config.rows_seed)


def check_openings(triples: Sequence[Triple], words: Sequence[str]) -> None:
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


def micro_batches_of_a_step(rows: RowDataset, config: DertaConfig) -> int:
    """Micro-batches of a step of tokens, on each process."""
    mean = sum(rows.length(0, index) for index in range(len(rows))) / len(rows)
    at_once = config.per_device_train_batch_size * config.world_size
    return max(1, round((config.step_tokens or 0) / mean / at_once))
