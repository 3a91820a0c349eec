"""The front door: every public name, loaded lazily, documented with an example, and callable whatever was imported."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import derta

MODULES = {"attacks", "engines", "judges", "methods"}
NAMES = {
    "ATTACKS", "Attack", "Cell", "Comparison", "DataError", "DertaConfig", "DertaError", "DertaTrainer", "Display",
    "Engine", "EngineError", "Example", "JUDGES", "Judge", "METHODS", "Message", "Method", "ModelError", "Prompt",
    "Rate", "Recipe", "RecipeError", "RefusalLogitsProcessor", "RefusalThreshold", "Reply", "Sampling",
    "Request", "RunError", "ScriptedModel", "Summary", "Triple", "Verdict",
    "audit_triples", "calibrate", "calibrate_threshold",
    "compare", "estimate", "export", "frontier", "judge", "load_engine", "load_examples",
    "load_preferences", "load_recipe", "load_requests", "load_triples", "make_triples", "prepare", "rate",
    "read_records",
    "report", "run", "summarize",
    "write_records",
}  # fmt: skip
HEAVY = {"torch", "transformers", "numpy", "scipy", "pydantic", "yaml", "datasets", "matplotlib"}


def test_the_public_names_are_these_and_no_others():
    assert set(derta.__all__) == NAMES | MODULES
    assert len(derta.__all__) == len(NAMES | MODULES)
    assert set(dir(derta)) >= set(derta.__all__)
    with pytest.raises(AttributeError, match="no attribute 'jugde'"):
        derta.__getattr__("jugde")


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, derta; print(sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert result.stdout.strip() == "[]"


def test_no_module_takes_the_place_of_a_public_name():
    for module in pkgutil.walk_packages(derta.__path__, "derta."):
        if module.name != "derta.engines.vllm":
            importlib.import_module(module.name)
    for name in NAMES:
        value = getattr(derta, name)
        assert not inspect.ismodule(value), name
        assert callable(value) or isinstance(value, dict), name


@pytest.mark.parametrize("name", sorted(NAMES - {"ATTACKS", "JUDGES", "METHODS"}))
def test_every_public_name_is_documented_with_an_example_that_runs(name):
    value = getattr(derta, name)
    doc = inspect.getdoc(value) or ""
    assert len(doc) > 40
    assert ">>>" in doc or (inspect.isclass(value) and _has_example(value)), f"{name} has no example"


def _has_example(kind: type) -> bool:
    return any(">>>" in (inspect.getdoc(member) or "") for _, member in inspect.getmembers(kind))
