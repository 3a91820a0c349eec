"""The demo from end to end, for `scripts/gpu_check.py`: pretraining, two methods, attacks, judges and the report.

python scripts/gpu_demo.py --size full --out FOLDER --json FILE
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from derta.demo import run as demo
from derta.demo.world import build_world

METHODS = ["base", "vanilla", "derta"]
TOY = {
    "pretraining_steps": 2,
    "train": {
        "max_steps": 2,
        "global_batch_size": 4,
        "per_device_train_batch_size": 4,
        "max_length": 128,
        "pack_tokens": 128,
        "learning_rate": 1e-3,
        "sorry_dropout": 0.0,
    },
    "method_settings": {},
    "generate": {"max_new_tokens": 2, "batch_tokens": 8192, "dtype": "float32"},
    "profile_answers": 0,
}


def main() -> None:
    """Run the demo and write each method's mean attack success over the attacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["toy", "full"], default="full")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    if args.size == "toy":
        demo.build_world = partial(build_world, num_allowed=2, num_tuned=40, num_held_out=2)
    summary = demo.run_demo(args.out, overrides={"methods": METHODS} | (TOY if args.size == "toy" else {}))
    figures: dict[str, float] = {}
    for method in METHODS:
        rates = [
            cell.value
            for cell in summary.cells
            if (cell.method, cell.suite, cell.judge) == (method, "attack", "steps") and cell.value is not None
        ]
        figures[f"attack_success_{method}"] = round(sum(rates) / len(rates), 3)
    args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
