"""The tuned model that DPO goes on from: a whole one, or an adapter on the recipe's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer

from derta.config import ModelSection, TrainSection
from derta.errors import ModelError, RecipeError
from derta.train.adapters import adapted, base_dtype
from derta.train.fit import load_model


def load_start(model: ModelSection, train: TrainSection, *, start: Path | None) -> Any:
    """Load the model that training starts from: a whole one, an adapter on the recipe's model, or (None) that itself.

    Raises:
        ModelError: no such folder, or none that holds a model in safetensors.
        RecipeError: an adapter for a recipe without `lora`, or LoRA on the head, which TRL's loss would pass by.
    """
    adapter = start if start is not None and is_adapter(start) else None
    if start is not None and adapter is None:
        if not (start / "config.json").is_file():
            raise ModelError(f"{start}: expected a folder with a tuned model or adapter, found none; check the path")
        model = model.model_copy(update={"path": str(start)})
    net = load_model(model, dtype=base_dtype(train), lora=train.lora, attention=train.attention)
    whole = adapted(net, train.lora, adapter=adapter)
    return whole if train.lora is None else _checked_head(whole)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return (folder / "adapter_config.json").is_file()


def _checked_head(net: PeftModel) -> PeftModel:
    head: Any = net.get_base_model().get_output_embeddings()  # pyright: ignore[reportCallIssue]
    if isinstance(head, BaseTunerLayer):
        raise RecipeError("train.lora.target_modules: expected no lm_head with `dpo`; TRL does not train LoRA on it")
    return net
