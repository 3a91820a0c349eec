"""Training methods: `METHODS` by name, `tune` to train a model, `estimate` to estimate time and memory beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from derta.errors import RecipeError, did_you_mean, install_advice
from derta.methods.method import Loss, Method
from derta.methods.rows_methods import BASE, ROW_METHODS, row_method
from derta.methods.tuning import (
    TrainingEstimate,
    check_settings,
    estimate,
    method_config,
    plan_training,
    shares_speed,
    tune,
)


def _lazy(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a module that is imported on its first call, because that module needs TRL."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(f"derta.methods.{module}"), name)(*args, **kwargs)

    return call


DPO = Method(
    name="dpo",
    description="Direct preference optimization of the safe over the harmful response, after vanilla (TRL).",
    dataset=_lazy("dpo", "encode_pairs"),
    init_from="vanilla",
    package=("trl", "dpo"),
    config=_lazy("dpo", "config_class"),
    own_settings=("beta", "precompute_ref_log_probs"),
    trainer=_lazy("dpo", "pair_trainer"),
    plan=_lazy("dpo", "plan_pairs"),
    unit="pairs",
)
BALANCED_DPO = replace(
    DPO,
    name="balanced_dpo",
    description="DPO of answers to look-alike requests over the model's own refusals, after balanced.",
    dataset=_lazy("own_refusals", "encode_own_pairs"),
    init_from="balanced",
    config=_lazy("own_refusals", "config_class"),
    own_settings=(*DPO.own_settings, "counter_examples", "answer_starts", "reply_tokens", "triples_per_pair"),
    own_refusals=True,
)
METHODS: Mapping[str, Method] = {method.name: method for method in (BASE, *ROW_METHODS, DPO, BALANCED_DPO)}
"""Methods by name, in the order of the paper's tables; `base` is the untrained baseline."""

__all__ = [
    "METHODS",
    "Loss",
    "Method",
    "TrainingEstimate",
    "check_package",
    "check_settings",
    "estimate",
    "find_method",
    "method_config",
    "plan_training",
    "row_method",
    "shares_speed",
    "tune",
]


def find_method(method: str | Method, methods: Mapping[str, Method] | None = None) -> Method:
    """Return a method by name; a `Method` is returned unchanged. `methods` are valid names in addition to `METHODS`.

    >>> find_method("derta").triples_per_unit
    1

    Raises:
        RecipeError: unknown name; the message suggests the nearest.
    """
    if isinstance(method, Method):
        return method
    available = {**METHODS, **(methods or {})}
    found = available.get(str(method))  # a caller's value of another type is unknown too
    if found is None:
        raise RecipeError(f"unknown method {method!r}; {did_you_mean(str(method), available)}")
    return found


def check_package(method: Method) -> None:
    """Fail before any work starts if the package that a method needs is not installed.

    Raises:
        RecipeError: it is not installed.
    """
    if method.package is not None and find_spec(method.package[0]) is None:
        package, extra = method.package
        raise RecipeError(
            f"{method.name}: expected the package {package}, found none; {install_advice(extra)}, or leave "
            f"{method.name} out"
        )
