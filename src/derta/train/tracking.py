"""Experiment trackers: one run of the tracker for each trained model, in the project that the config names."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from derta.train.config import DertaConfig

_PROJECT_VARIABLES: Mapping[str, str] = {"wandb": "WANDB_PROJECT", "mlflow": "MLFLOW_EXPERIMENT_NAME"}
"""Variables that hold the project of a tracker; Trackio takes `project` of the config itself."""
_UNNAMED = "huggingface"
"""Default of `project` in `TrainingArguments`."""


def project_name(title: str) -> str:
    r"""Return a recipe's title as the name of a project, without the characters that Weights & Biases refuses.

    >>> project_name("Gemma-270M: 50% of\nthe data / seed 1")
    'Gemma-270M 50 of the data seed 1'
    """
    return " ".join(re.sub(r"[/\\#?%:\s]+", " ", title).split())[:128].strip() or "derta"


@contextmanager
def tracked(config: DertaConfig) -> Generator[None]:
    """Name the project for the trackers that take it from the environment, and finish a run of wandb that is started.

    Transformers leaves the run of wandb open, so the next model of the same process would be logged into it. Variables
    and a run that exist before are the user's and are left alone.
    """
    trackers = [config.report_to] if isinstance(config.report_to, str) else config.report_to or []
    names = [variable for tracker, variable in _PROJECT_VARIABLES.items() if tracker in trackers]
    added = [name for name in names if name not in os.environ and config.project != _UNNAMED]
    os.environ.update(dict.fromkeys(added, str(config.project)))
    was_open = _wandb_run() is not None
    failed = True
    try:
        yield
        failed = False
    finally:
        for name in added:
            del os.environ[name]
        if "wandb" in trackers and not was_open and _wandb_run() is not None:
            sys.modules["wandb"].finish(exit_code=int(failed))


def _wandb_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)
