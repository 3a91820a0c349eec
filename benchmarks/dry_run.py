"""Accuracy of a dry run's time and memory estimates: estimate and training in separate processes, one after the other.

python benchmarks/dry_run.py recipes/gemma-270m.yaml --methods vanilla derta
python benchmarks/dry_run.py recipes/gemma-270m.yaml --methods derta --set train.compile_layers=false
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    settings = [word for one in args.set for word in ("--set", one)]
    for _ in range(args.rounds):
        for method in args.methods:
            only = ("--set", f"methods=[{method}]", "--dry-run", "--json")
            (estimate,) = json.loads(derta("run", args.recipe, *settings, *only))
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "model"
                derta("train", args.recipe, "--method", method, "--out", out, *settings)
                log = json.loads((out / "train_log.json").read_text())
            logged = {name: value for entry in log for name, value in entry.items()}
            seconds, peak = logged["train_runtime"], logged["peak_memory_gib"]
            print(
                f"{method}: {estimate['seconds']:.0f} s estimated, {seconds:.0f} s measured "
                f"(ratio {estimate['seconds'] / seconds:.2f}); peak {estimate['peak_gib']:.2f} GiB estimated, "
                f"{peak:.2f} measured (ratio {estimate['peak_gib'] / peak:.2f})",
                flush=True,
            )


def derta(*words: object) -> str:
    """Run a `derta` command and return its standard output."""
    command = [sys.executable, "-c", "from derta.cli.main import main; main()", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603


if __name__ == "__main__":
    main()
