import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz.py"
TARGETS = ("refusals", "harm", "exact", "verdicts", "places", "jsonl", "table", "published")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_target_is_tested(script: ModuleType):
    assert tuple(script.TARGETS) == TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_no_target_fails_on_the_seeds(script: ModuleType, name: str):
    assert len(script.seeds()) > 15
    for seed in script.seeds():
        script.TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
def test_no_target_fails_on_random_bytes(script: ModuleType, name: str):
    @settings(max_examples=30)
    @given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
    def run(data: bytes) -> None:
        script.TARGETS[name](data)

    run()


def test_superlinear_time_is_an_error(script: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(script, "SECONDS", 0.05)
    monkeypatch.setattr(script, "PUMP_EVERY", 1)
    with pytest.raises(AssertionError, match="repeated"):
        script._in_linear_time(lambda text: [text.count("ab", i) for i in range(0, len(text), 20)], b"a", "a")


def test_the_dictionary_has_words_of_every_language(script: ModuleType):
    words = script.dictionary()
    assert len(words) > 300
    assert "".join(f"\\x{byte:02x}" for byte in "désolée".encode()) in words
