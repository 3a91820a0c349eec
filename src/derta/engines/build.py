"""An engine from what a command line says: its name, its model, and settings that are checked by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any, get_type_hints

from pydantic import ValidationError, create_model

from derta.engines import ENGINES, engine_loader
from derta.errors import EngineError
from derta.files import describe
from derta.protocols import Engine


def check_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """An engine's settings as its loader takes them: they are the loader's keyword arguments. Nothing is loaded.

    Raises:
        EngineError: no such engine, or a setting that it does not have or that cannot be; the known ones are named.
    """
    if name not in ENGINES:
        raise EngineError(f"--engine: expected one of {', '.join(ENGINES)}, got {name!r}")
    load = engine_loader(name)
    known = list(signature(load).parameters)[1:]
    for setting in settings:
        if setting not in known:
            near = get_close_matches(setting, known, n=1)
            offer = f"did you mean {near[0]!r}?" if near else f"its settings are {', '.join(known)}"
            raise EngineError(f"engine {name}: unknown setting {setting!r}; {offer}")
    kinds: dict[str, Any] = {setting: (kind, ...) for setting, kind in get_type_hints(load).items()}
    given = create_model("Settings", **{setting: kinds[setting] for setting in settings})
    try:
        return dict(given.model_validate(settings))
    except ValidationError as error:
        raise EngineError(f"engine {name}: setting {describe(error)}") from error


def build_engine(name: str, model: str, settings: Mapping[str, Any]) -> Engine:
    """Load a model into the engine of a name, with settings as for `check_settings`.

    Raises:
        EngineError: no such engine or setting.
        ModelError: no such model.
    """
    checked = check_settings(name, settings)
    return ENGINES[name](model, **checked)
