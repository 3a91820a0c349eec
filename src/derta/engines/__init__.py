"""Inference engines with one interface: `generate`, `log_likelihood`, `refusal_probability`; no torch on import."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from derta.engines.endpoints import check_endpoints, user_endpoints
from derta.errors import EngineError, did_you_mean
from derta.files import format_validation_error
from derta.protocols import Engine
from derta.provenance import flat, hash_file, model_hash

__all__ = [
    "ENGINES",
    "Engine",
    "Loader",
    "check_endpoints",
    "check_settings",
    "engine_producer",
    "load_engine",
    "settings_of_text",
    "user_endpoints",
]

if TYPE_CHECKING:
    from torch import nn

_SPEED_SETTINGS = frozenset(
    {
        *("api_key_env", "attempts", "concurrency", "device", "endpoints", "gpu_memory_utilization"),
        *("max_batch_tokens", "max_model_len", "refusal_words", "requests_per_minute", "tensor_parallel_size"),
        *("patience", "threads", "timeout", "trust_remote_code"),
    }
)

_UNSET: tuple[object, ...] = (None, "auto", {})
"""Values of settings that mean the same as leaving them out."""

Loader = Callable[..., Engine]
"""Function that loads a model into an engine; its keyword arguments are the engine's settings."""


def _loader(module: str) -> Loader:
    return import_module(module).load


ENGINES: dict[str, Callable[[], Loader]] = {
    "hf": partial(_loader, "derta.engines.hf"),
    "api": partial(_loader, "derta.engines.openai"),
    "vllm": partial(_loader, "derta.engines.vllm"),
}
"""Functions that import and return the loader of each engine, by engine name."""


def load_engine(model: str | Path | nn.Module, *, engine: str = "hf", **settings: Any) -> Engine:
    """Load a model into an engine: a folder, a hub id, the model name of a server, or a model in memory.

    >>> load_engine("judge", engine="api", endpoints="http://127.0.0.1:8000/v1", concurrency=4).limits.concurrency
    4

    In a notebook: `load_engine("models/derta", device="cpu")`, or `load_engine(trainer.model, tokenizer=tokenizer)`.

    Args:
        model: Folder, hub id, name or loaded model. A loaded model needs the engine `hf` and its `tokenizer`. A model
            in training mode generates in eval mode and is in training mode between replies and afterwards.
        engine: `hf` (Transformers, in this process), `api` (an OpenAI-compatible server) or `vllm`.
        settings: Settings of the engine: the arguments of `derta.engines.hf.load`, `derta.engines.openai.load` or
            `derta.engines.vllm.load`.

    Raises:
        EngineError: Unknown engine, unknown or invalid setting, or a missing package.
        ModelError: The model or its tokenizer does not exist, or it has no usable chat template.
    """
    checked = check_settings(engine, settings)
    if engine != "hf" and not isinstance(model, str | Path):
        raise EngineError(f"engine {engine}: expected a model's name, got a {type(model).__name__}; use the engine hf")
    return ENGINES[engine]()(model, **checked)


def engine_producer(model: str | Path, *, engine: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the provenance of a model's output: its files by hash, and the settings that change what it writes.

    Settings of speed and place (devices, batch sizes, servers) do not count. A model behind a server counts by name.

    Raises:
        ModelError: a file of the model cannot be read.
    """
    forces = settings.get("refusal_threshold") is not None
    kept = {"refusal_words"} if forces else set[str]()
    values = {key: value for key, value in settings_of_text(settings, kept).items() if value not in _UNSET}
    for key in ("adapter", "tokenizer"):
        if isinstance(values.get(key), str | Path):
            values[key] = model_hash(values[key])
    for key in ("template", "refusal_threshold"):
        if isinstance(values.get(key), str | Path) and Path(values[key]).is_file():
            values[key] = hash_file(Path(values[key]))
    identity = str(model) if engine == "api" else model_hash(model)
    return {"engine": engine, "model": identity, **flat(values)}


def settings_of_text(settings: Mapping[str, Any], kept: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings of an engine that change what a model writes, and those in `kept`.

    >>> settings_of_text({"endpoints": "http://127.0.0.1:8000/v1", "dtype": "float32"})
    {'dtype': 'float32'}
    """
    return {key: value for key, value in settings.items() if key not in _SPEED_SETTINGS or key in kept}


def check_settings(engine: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Validate an engine's settings and return them with the types that its loader takes; no model is loaded.

    Raises:
        EngineError: Unknown engine, or an unknown or invalid setting.
    """
    load = ENGINES[_check_engine_name(engine)]()
    names = list(signature(load).parameters)[1:]
    for setting in settings:
        if setting == "refusal_threshold" and engine != "hf":
            raise EngineError(f"engine {engine}: {setting} is for the engine hf; docs/threshold.md describes servers")
        if setting not in names:
            raise EngineError(f"engine {engine}: unknown setting {setting!r}; {did_you_mean(setting, names)}")
    fields: dict[str, Any] = {setting: (kind, ...) for setting, kind in get_type_hints(load).items()}
    model = create_model(
        "Settings",
        __config__=ConfigDict(arbitrary_types_allowed=True),
        **{setting: fields[setting] for setting in settings},
    )
    try:
        return dict(model.model_validate(settings))
    except ValidationError as error:
        raise EngineError(f"engine {engine}: setting {format_validation_error(error)}") from error


def _check_engine_name(engine: str) -> str:
    if engine not in ENGINES:
        raise EngineError(f"unknown engine {engine!r}; {did_you_mean(engine, ENGINES)}")
    return engine
