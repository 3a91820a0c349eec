"""The parts of the GPU pack: the command, time limit, figures and goals of each."""

from __future__ import annotations

import json
import operator
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

Size = Literal["toy", "full"]
Figures = dict[str, Any]
ROOT = Path(__file__).parents[1]
WORKERS = str(max(1, min(8, (os.cpu_count() or 2) // 2)))
"""Processes of the tests at full size, where pytest-xdist is installed: most of their time is the CPU's."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
"""Environment of tests in several processes."""
FLEX = "flex_attention"
"""A part of the names of the tests that compile kernels, which take longest."""


class Goal(NamedTuple):
    """A bound on a figure; judged at full size on a GPU only."""

    figure: str
    relation: Literal[">=", "<="]
    bound: float

    def verdict(self, figures: Mapping[str, Any]) -> Literal["met", "missed", "not measured"]:
        """Return whether the figure is within the bound; a part that was killed may not have measured it."""
        if figures.get(self.figure) is None:
            return "not measured"
        compare = operator.ge if self.relation == ">=" else operator.le
        return "met" if compare(figures[self.figure], self.bound) else "missed"

    def __str__(self) -> str:
        return f"{self.figure} {self.relation} {self.bound:g}"


class Part(NamedTuple):
    """One subprocess of the pack.

    Attributes:
        limit_s: seconds after which it is killed.
        command: the words of the command, given the size and the folder for what the part writes.
        read: what it measured, given that folder; as much as there is where the part was killed.
        package: a package that it needs besides the pack's own.
        goals: bounds on its figures.
        environment: variables that it gets besides those of all parts.
    """

    limit_s: int
    command: Callable[[Size, Path], list[str]]
    read: Callable[[Path], Figures]
    package: str | None = None
    goals: tuple[Goal, ...] = ()
    environment: Mapping[str, str] = MappingProxyType({})


def gpu_test_files() -> list[str]:
    """Return the test files with tests marked `gpu`, relative to the project."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [file for file in files if re.search(r"mark\.gpu|cuda_device", file.read_text(encoding="utf-8"))]
    return [str(file.relative_to(ROOT)) for file in marked]


def tests_command(size: Size, folder: Path, *, flex: bool) -> list[str]:
    """Return the command of the marked tests, those of flex_attention or all others.

    At toy size their CPU variants run, of those that have one; the others are listed as skipped.
    """
    del folder
    files = gpu_test_files() if size == "full" else ["tests/devices"]
    if flex:
        chosen = FLEX if size == "full" else f"{FLEX} and llama"
    else:
        chosen = f"not {FLEX}" if size == "full" else f"not {FLEX} and (llama or lora)"
    marks = ["-m", "gpu", "-k", chosen] if size == "full" else ["-k", chosen]
    parallel = ["-n", WORKERS, "--dist", "worksteal"] if size == "full" and find_spec("xdist") else []
    # other versions than the pinned ones warn of other things: shown, and no failure
    quiet = ["-p", "no:cacheprovider", "-W", "default", "--tb=short"]
    return [sys.executable, "-m", "pytest", "-p", "gpu_tests_log", *quiet, *marks, *parallel, *files]


def read_tests(folder: Path) -> Figures:
    """Return counts of outcomes, the failures, the skips by reason, and the tests that were collected but not run."""
    path = folder / "tests.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    collected = {test for record in records for test in record.get("collected", ())}
    ran = [record for record in records if "outcome" in record]
    outcomes = [record["outcome"] for record in ran]
    skips: dict[str, int] = {}
    for record in ran:
        if record["outcome"] == "skipped":
            skips[record["reason"]] = skips.get(record["reason"], 0) + 1
    not_run = sorted(collected - {record["test"] for record in ran})
    return {
        **{outcome: outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")},
        "not_run": len(not_run),
        "failures": [f"{record['test']}: {record['reason']}" for record in ran if record["outcome"] == "failed"],
        "skips": skips,
        "tests_not_run": not_run,
        "slowest": sorted(((r["seconds"], r["test"]) for r in ran), reverse=True)[:5],
    }


def benchmark(name: str, *words: str, toy: str, full: str) -> Callable[[Size, Path], list[str]]:
    """Return the command of a benchmark on random models."""

    def command(size: Size, folder: Path) -> list[str]:
        settings = (toy if size == "toy" else full).split()
        script = str(ROOT / "benchmarks" / name)
        return [sys.executable, script, *settings, *words, "--json", str(folder / "figures.json")]

    return command


def read_json(folder: Path) -> Figures:
    """Return a part's figures as it wrote them; none if it did not get that far."""
    path = folder / "figures.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_training(folder: Path) -> Figures:
    """Return the figures of the training benchmark that the goals and the table need."""
    raw = read_json(folder)
    if not raw:
        return {}
    [(other, against)] = raw["against"].items()
    derta = raw["variants"]["derta"]
    return {
        "against": other,
        "speed_ratio": against["speed_ratio"],
        "memory_ratio": against["memory_ratio"],
        "share_of_matmul_peak": derta["share_of_matmul_peak"],
        "tokens_per_second": derta["tokens_per_second"],
        "peak_gib": derta["peak_gib"],
        f"{other}_tokens_per_second": raw["variants"][other]["tokens_per_second"],
        f"{other}_peak_gib": raw["variants"][other]["peak_gib"],
        "matmul_peak_tflops": round(raw["matmul_peak_gflops"] / 1e3, 1),
    }


def read_generation(folder: Path) -> Figures:
    """Return the figures of the generation benchmark, the rates by engine among them."""
    raw = read_json(folder)
    rates = raw.pop("replies_per_second", {})
    return raw | {f"{name}_replies_per_second": rate for name, rate in rates.items()}


def demo_command(size: Size, folder: Path) -> list[str]:
    """Return the command of the demo."""
    out = ["--out", str(folder / "demo"), "--json", str(folder / "figures.json")]
    return [sys.executable, str(ROOT / "scripts" / "gpu_demo.py"), "--size", size, *out]


TRAIN_TOY = "--random toy --rows 4 --micro-rows 2 --max-length 64 --pack-tokens 64 --steps 3 --threads 1 --skip floor"
TRAIN_FULL = "--random 1b --micro-rows 8 --reference-micro-rows 8 --max-length 1024 --pack-tokens 1024 --skip floor"

PARTS: dict[str, Part] = {
    "generate_speed": Part(
        40,
        benchmark(
            "generate_speed.py",
            toy="--random toy --prompts 12 --max-prompt-tokens 64 --max-new-tokens 8 --check 4 --threads 1",
            full="--random 1b --prompts 200 --max-new-tokens 64 --check 25 --warm-up 100 --warm-up-tokens 4 --cudnn 20",
        ),
        read_generation,
    ),
    "demo": Part(60, demo_command, read_json),
    "train_speed": Part(
        70,
        benchmark(
            "train_speed.py",
            "--against",
            "reference",
            toy=TRAIN_TOY,
            full=f"{TRAIN_FULL} --rows 128 --steps 4 --compile",
        ),
        read_training,
        goals=(
            Goal("speed_ratio", ">=", 2.5),
            Goal("memory_ratio", "<=", 0.5),
            Goal("share_of_matmul_peak", ">=", 0.45),
        ),
    ),
    "tests": Part(45, partial(tests_command, flex=False), read_tests, environment=ONE_THREAD),
    "tests_flex": Part(45, partial(tests_command, flex=True), read_tests, environment=ONE_THREAD),
    "train_speed_trl": Part(
        35,
        benchmark("train_speed.py", "--against", "trl", toy=TRAIN_TOY, full=f"{TRAIN_FULL} --rows 64 --steps 3"),
        read_training,
        package="trl",
    ),
}
"""The parts in their order, the surest first; the limits add up to less than five minutes."""
