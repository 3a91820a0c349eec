"""Decoupled Refusal Training: fine-tuning that lets a model refuse at any position of a response, and its evaluation.

Public names load on first use: `import derta` imports neither torch nor transformers.

>>> import derta
>>> refusals = derta.rate([True, False, None])
>>> refusals.value, refusals.scored, refusals.unscored
(0.5, 2, 1)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from derta import attacks as attacks
    from derta import engines as engines
    from derta import judges as judges
    from derta import methods as methods
    from derta.attacks import ATTACKS as ATTACKS
    from derta.attacks.base import Attack as Attack
    from derta.config import Recipe as Recipe
    from derta.config import load_recipe as load_recipe
    from derta.data.helpful import load_examples as load_examples
    from derta.data.preferences import load_preferences as load_preferences
    from derta.data.preparation import prepare as prepare
    from derta.data.requests import load_requests as load_requests
    from derta.data.triples import load_triples as load_triples
    from derta.engines import load_engine as load_engine
    from derta.engines.scripted import ScriptedModel as ScriptedModel
    from derta.engines.threshold import RefusalLogitsProcessor as RefusalLogitsProcessor
    from derta.errors import DataError as DataError
    from derta.errors import DertaError as DertaError
    from derta.errors import EngineError as EngineError
    from derta.errors import ModelError as ModelError
    from derta.errors import RecipeError as RecipeError
    from derta.errors import RunError as RunError
    from derta.files import read_records as read_records
    from derta.files import write_records as write_records
    from derta.formats.exporting import export as export
    from derta.judges import JUDGES as JUDGES
    from derta.judges import judge as judge
    from derta.methods import METHODS as METHODS
    from derta.methods import Method as Method
    from derta.metrics.calibration import calibrate as calibrate
    from derta.metrics.comparisons import compare as compare
    from derta.metrics.rates import rate as rate
    from derta.metrics.summaries import summarize as summarize
    from derta.pipeline.audit import audit_triples as audit_triples
    from derta.pipeline.estimate import estimate as estimate
    from derta.pipeline.frontier import frontier as frontier
    from derta.pipeline.report import report as report
    from derta.pipeline.run import run as run
    from derta.pipeline.threshold import calibrate_threshold as calibrate_threshold
    from derta.pipeline.triples.making import make_triples as make_triples
    from derta.protocols import Display as Display
    from derta.protocols import Engine as Engine
    from derta.protocols import Judge as Judge
    from derta.records import Example as Example
    from derta.records import Message as Message
    from derta.records import Prompt as Prompt
    from derta.records import Reply as Reply
    from derta.records import Request as Request
    from derta.records import Triple as Triple
    from derta.records import Verdict as Verdict
    from derta.results import Cell as Cell
    from derta.results import Comparison as Comparison
    from derta.results import Summary as Summary
    from derta.sampling import Sampling as Sampling
    from derta.stats import Rate as Rate
    from derta.thresholds import RefusalThreshold as RefusalThreshold
    from derta.train.config import DertaConfig as DertaConfig
    from derta.train.trainer import DertaTrainer as DertaTrainer

__version__ = "0.1.0"

_MODULES = ("attacks", "engines", "judges", "methods")
_HOMES: dict[str, tuple[str, ...]] = {
    "derta.attacks": ("ATTACKS",),
    "derta.attacks.base": ("Attack",),
    "derta.config": ("Recipe", "load_recipe"),
    "derta.data.helpful": ("load_examples",),
    "derta.data.preferences": ("load_preferences",),
    "derta.data.preparation": ("prepare",),
    "derta.data.requests": ("load_requests",),
    "derta.data.triples": ("load_triples",),
    "derta.engines": ("load_engine",),
    "derta.engines.scripted": ("ScriptedModel",),
    "derta.engines.threshold": ("RefusalLogitsProcessor",),
    "derta.errors": ("DataError", "DertaError", "EngineError", "ModelError", "RecipeError", "RunError"),
    "derta.files": ("read_records", "write_records"),
    "derta.formats.exporting": ("export",),
    "derta.judges": ("JUDGES", "judge"),
    "derta.methods": ("METHODS", "Method"),
    "derta.metrics.calibration": ("calibrate",),
    "derta.metrics.comparisons": ("compare",),
    "derta.metrics.rates": ("rate",),
    "derta.metrics.summaries": ("summarize",),
    "derta.pipeline.audit": ("audit_triples",),
    "derta.pipeline.estimate": ("estimate",),
    "derta.pipeline.frontier": ("frontier",),
    "derta.pipeline.report": ("report",),
    "derta.pipeline.run": ("run",),
    "derta.pipeline.threshold": ("calibrate_threshold",),
    "derta.pipeline.triples.making": ("make_triples",),
    "derta.protocols": ("Display", "Engine", "Judge"),
    "derta.records": ("Example", "Message", "Prompt", "Reply", "Request", "Triple", "Verdict"),
    "derta.results": ("Cell", "Comparison", "Summary"),
    "derta.sampling": ("Sampling",),
    "derta.stats": ("Rate",),
    "derta.thresholds": ("RefusalThreshold",),
    "derta.train.config": ("DertaConfig",),
    "derta.train.trainer": ("DertaTrainer",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ATTACKS",
    "JUDGES",
    "METHODS",
    "Attack",
    "Cell",
    "Comparison",
    "DataError",
    "DertaConfig",
    "DertaError",
    "DertaTrainer",
    "Display",
    "Engine",
    "EngineError",
    "Example",
    "Judge",
    "Message",
    "Method",
    "ModelError",
    "Prompt",
    "Rate",
    "Recipe",
    "RecipeError",
    "RefusalLogitsProcessor",
    "RefusalThreshold",
    "Reply",
    "Request",
    "RunError",
    "Sampling",
    "ScriptedModel",
    "Summary",
    "Triple",
    "Verdict",
    "attacks",
    "audit_triples",
    "calibrate",
    "calibrate_threshold",
    "compare",
    "engines",
    "estimate",
    "export",
    "frontier",
    "judge",
    "judges",
    "load_engine",
    "load_examples",
    "load_preferences",
    "load_recipe",
    "load_requests",
    "load_triples",
    "make_triples",
    "methods",
    "prepare",
    "rate",
    "read_records",
    "report",
    "run",
    "summarize",
    "write_records",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name in _MODULES:
        return import_module(f"derta.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'derta' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
