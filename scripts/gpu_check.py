"""The GPU pack: tests, benchmarks and the demo on this machine's GPU, in under five minutes and without a download.

    python scripts/gpu_check.py                       # everything; at toy size where there is no GPU
    python scripts/gpu_check.py --only train_speed    # one part (repeatable)

Each part is a subprocess with a time limit; what fails, fails alone, and the rest goes on. The folder `--out` gets
`gpu_check.json` (card, versions, and each part's status, seconds and figures), `gpu_check.md` (a table for LOG.md, also
printed) and each part's output. The exit status is 0 if nothing failed, timed out or missed a goal. See docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_parts import PARTS, ROOT, Part, Size

PACKAGES = (
    "torch", "transformers", "accelerate", "peft", "trl", "bitsandbytes", "flash-attn", "triton", "pydantic", "numpy",
)  # fmt: skip
"""Packages whose versions are reported."""
OLDEST_TORCH = (2, 11)
GOOD = ("passed", "skipped")

DESCRIBE = """
import json, platform, torch
card = None
if torch.cuda.is_available():
    one = torch.cuda.get_device_properties(0)
    card = {"name": one.name, "memory_gib": round(one.total_memory / 2**30, 1), "count": torch.cuda.device_count(),
            "capability": f"{one.major}.{one.minor}", "cuda": torch.version.cuda}
print(json.dumps({"card": card, "machine": platform.machine(), "python": platform.python_version()}))
"""


def describe() -> dict[str, Any]:
    """Return the card (None without a GPU), the machine, and the versions of the packages that matter."""
    words = [sys.executable, "-c", DESCRIBE]
    ended = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)  # noqa: S603
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {**json.loads(ended.stdout), "cores": os.cpu_count(), "versions": versions}


def run_part(name: str, part: Part, *, size: Size, out: Path, time_scale: float = 1.0) -> dict[str, Any]:
    """Run one part and return its status, seconds, figures and goals; what it prints goes to `out/NAME/output.txt`.

    The status is `passed`, `failed`, `timed out`, `goal missed`, or `skipped` where a package is missing. A goal whose
    figure a part did not measure is listed as not measured; a part that ended without measuring it missed it.
    """
    if part.package is not None and find_spec(part.package) is None:
        return {"status": "skipped", "reason": f"{part.package} is not installed"}
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in ("figures.json", "tests.jsonl"):
        (folder / old).unlink(missing_ok=True)
    limit = part.limit_s * time_scale
    start = time.perf_counter()
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(  # noqa: S603
            part.command(size, folder), cwd=ROOT, env=environment(folder) | part.environment, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:  # timed out, or this script is interrupted
                os.killpg(process.pid, signal.SIGKILL)  # with its workers
                process.wait()
    result: dict[str, Any] = {
        "status": "timed out" if code is None else "failed" if code else "passed",
        "seconds": round(time.perf_counter() - start, 1),
        "limit_s": round(limit, 1),
        "figures": part.read(folder),
    }
    if result["status"] in ("failed", "timed out"):
        result["reason"] = last_line(folder / "output.txt")
    if size == "full" and part.goals:
        result["goals"] = {str(goal): goal.verdict(result["figures"]) for goal in part.goals}
        if result["status"] == "passed" and set(result["goals"].values()) != {"met"}:
            result["status"] = "goal missed"
    return result


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a part: this project first on the path, no network, and no test run around it."""
    path = [str(ROOT / "src"), str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return outside | {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GPU_TESTS_LOG": str(folder / "tests.jsonl"),
    }


def last_line(output: Path) -> str:
    """Return the last line of a part's output that is not empty, shortened."""
    lines = [line.strip() for line in output.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line[:300] for line in reversed(lines) if line), "no output")


def table(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown for LOG.md: the machine, a row for each part, and what was skipped or failed."""
    card = report["card"]
    name = "no GPU" if card is None else f"{card['name']}, {card['memory_gib']} GiB, CUDA {card['cuda']}"
    versions = ", ".join(f"{package} {number}" for package, number in report["versions"].items() if number)
    lines = [
        f"Machine: {name}; {report['cores']} cores; {versions}. "
        f"`scripts/gpu_check.py --size {report['size']}`, one run of {report['seconds']} s.",
        "",
        "| part | status | seconds (limit) | figures |",
        "|---|---|---|---|",
    ]
    notes: list[str] = []
    for part, result in report["parts"].items():
        figures = result.get("figures", {})
        seconds = f"{result['seconds']} ({result['limit_s']:g})" if "seconds" in result else ""
        shown = ", ".join(
            f"{key.replace('_', ' ')} {value}" for key, value in figures.items() if isinstance(value, int | float | str)
        )
        lines.append(f"| {part} | {result['status']} | {seconds} | {shown or result.get('reason', '')} |")
        notes += [f"- {part}, skipped: {reason} ({count})" for reason, count in figures.get("skips", {}).items()]
        notes += [f"- {part}, failed: {failure}" for failure in figures.get("failures", [])]
        notes += [f"- {part}, not run: {test}" for test in figures.get("tests_not_run", [])]
        notes += [f"- {part}, goal {verdict}: {goal}" for goal, verdict in result.get("goals", {}).items()]
        if "reason" in result:
            last = "timed out, its last line" if result["status"] == "timed out" else result["status"]
            notes.append(f"- {part}, {last}: {result['reason']}")
    return "\n".join([*lines, *([""] if notes else []), *notes, ""])


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="run this part alone (repeatable)")
    parser.add_argument("--size", choices=["toy", "full"], help="default: full with a GPU, else toy")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu_check", help="folder of the results")
    parser.add_argument("--time-scale", type=float, default=1.0, help="multiply the time limits, for a slower card")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts, write the report, print the table, and return the exit status."""
    args = parse(words)
    start = time.perf_counter()
    machine = describe()
    size: Size = args.size or ("full" if machine["card"] else "toy")
    torch_version = tuple(int(number) for number in machine["versions"]["torch"].split(".")[:2])
    if torch_version < OLDEST_TORCH:
        print(f"expected torch 2.11 or newer, got {machine['versions']['torch']}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {**machine, "size": size, "date": datetime.now(UTC).isoformat("T", "seconds"), "parts": {}}
    for name in args.only or PARTS:
        print(f"{name} (at most {PARTS[name].limit_s * args.time_scale:g} s) ...", file=sys.stderr, flush=True)
        report["parts"][name] = run_part(name, PARTS[name], size=size, out=args.out, time_scale=args.time_scale)
        report["seconds"] = round(time.perf_counter() - start, 1)
        (args.out / "gpu_check.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (args.out / "gpu_check.md").write_text(table(report), encoding="utf-8")
    print(table(report))
    return int(any(result["status"] not in GOOD for result in report["parts"].values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the running part is killed too
    raise SystemExit(main())
