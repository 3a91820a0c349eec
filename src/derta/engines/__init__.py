"""Models behind one interface: `generate`, `log_likelihood`, `refusal_probability`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from derta.protocols import Engine

_MODULES = {"hf": "derta.engines.hf", "api": "derta.engines.openai_api", "vllm": "derta.engines.vllm"}


def engine_loader(name: str) -> Callable[..., Engine]:
    """The function that loads a model into the engine of a name; its keyword arguments are the engine's settings."""
    return import_module(_MODULES[name]).load_engine


def _load(name: str, model: str, **settings: Any) -> Engine:
    return engine_loader(name)(model, **settings)


ENGINES: dict[str, Callable[..., Engine]] = {name: partial(_load, name) for name in _MODULES}
