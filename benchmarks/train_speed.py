"""Training speed and memory: `DertaTrainer` against other trainers, step by step on the same rows.

Every optimizer step of a real `DertaTrainer` run is repeated, on the same model, rows, optimizer and dtype, by

- `reference`: the same step as in the released script: random micro-batches padded to the longest row,
  per-row relabelling in Python, the stock forward with every position's logits in fp32;
- `trl` (`--against trl`): a real `SFTTrainer.train()` of one step on the step's rows as they were drawn (`input_ids`
  and `labels`), gradient checkpointing off;
- `floor`: a bare forward and backward of the trunk over the same packed micro-batches, and the three matrix products
  of the labelled positions' projection; no softmax, no loss, no optimizer.

All variants share the noise of the machine, so ratios are reliable even if times are not. Useful tokens exclude
padding. Peak memory is the resident set's high-water mark (on a GPU: the allocator's) and includes the model, its
gradients and the optimizer's state. `DIFFERENCES` lists what else differs, and is printed with the result. Figures are
written after every counted step, so that a run that is cut off leaves what it measured.

    python benchmarks/train_speed.py --model $DERTA_GEMMA_270M --data $DERTA_DATA --mixture paper
    python benchmarks/train_speed.py --model $DERTA_GEMMA_270M --data $DERTA_DATA --mixture safety
    python benchmarks/train_speed.py --model $DERTA_GEMMA_270M --data $DERTA_DATA --micro-rows 16 --compile \\
        --against trl
    python benchmarks/train_speed.py --random 1b --rows 128 --max-length 1024 --reference-micro-rows 8  # no download
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from phases import phase

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # same defaults as the command line
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers send some

import torch
from synthetic import SHAPES, RandomText, random_model, random_tokenizer, random_training_set
from torch import nn
from train_variants import MEMORY_STEP, Variants, matmul_peak
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl_steps import SftSteps

from derta import METHODS, DertaConfig, DertaTrainer, load_examples, load_triples
from derta.chat import chat_format, refusal_tokens
from derta.data.mixture import TrainingSet
from derta.data.rows import Instance
from derta.loading import load_model, load_tokenizer

COUNTED = MEMORY_STEP + 1
"""The first step whose time is counted."""

DIFFERENCES = {
    "reference": (
        "never compiled; micro-batches of --reference-micro-rows, padded to their longest row; logits of every "
        "position in fp32; a mean per micro-batch"
    ),
    "trl": (
        "SFTTrainer is never compiled, takes the step's rows in their order in micro-batches of --trl-micro-rows, "
        "padded to their longest row (--trl-padding-free: one sequence each), scores every position where there is no "
        "Triton (on a CPU; on a GPU the labelled ones), and also computes each label's entropy and accuracy, which it "
        "logs. Gradient checkpointing, its default, is off, as in derta. In its favour: rows are encoded, checked and "
        "drawn beforehand, its trainer is set up untimed, and derta's memory settings hold in this process"
    ),
}
"""Differences other than the trainer itself."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", choices=SHAPES, help="random model and random words, instead of --model, --data")
    parser.add_argument("--model", help="folder of a causal LM")
    parser.add_argument("--data", type=Path, help="folder of the public research data")
    parser.add_argument("--template", help="default: paper; with --random: that of the random tokenizer")
    parser.add_argument("--mixture", choices=["paper", "safety"], default="paper", help="paper: 10 helpful to 1 safety")
    parser.add_argument("--rows", type=int, default=16, help="rows per optimizer step")
    parser.add_argument("--micro-rows", type=int, default=8, help="rows per micro-batch of derta and the floor")
    parser.add_argument("--reference-micro-rows", type=int, default=4, help="of the reference; more need over 24 GiB")
    parser.add_argument("--steps", type=int, default=5, help="first: warm-up, second: memory")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--pack-tokens", type=int, default=1024)
    parser.add_argument("--sorry-dropout", type=float, default=0.95)
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--against", nargs="+", default=["reference"], choices=["reference", "trl"], help="what to compare with"
    )
    parser.add_argument("--trl-micro-rows", type=int, help="rows per micro-batch of TRL; default: --micro-rows")
    parser.add_argument("--trl-padding-free", action="store_true", help="TRL: one sequence per micro-batch")
    parser.add_argument("--skip", nargs="*", default=[], choices=["reference", "floor"], help="variants to skip")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model (derta only)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    args = parser.parse_args()
    args.against = [name for name in args.against if name not in args.skip]
    args.trl_micro_rows = args.trl_micro_rows or args.micro_rows
    args.template = args.template or ("auto" if args.random else "paper")
    if not args.random and not (args.model and args.data):
        parser.error("expected --model and --data, or --random")
    if args.rows % args.trl_micro_rows:
        parser.error(f"--trl-micro-rows: expected a divisor of --rows ({args.rows}), got {args.trl_micro_rows}")
    if args.steps <= COUNTED:
        parser.error(f"--steps: expected at least {COUNTED + 1}, got {args.steps}")
    return args


def load_rows(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, config: DertaConfig) -> Sequence[Instance]:
    """Return DeRTa's instances for all rows: ten helpful to one safety row, or safety rows only."""
    needed = args.rows * args.steps
    num_safety = needed if args.mixture == "safety" else ceil(needed / 11)
    data = load_data(args, tokenizer, num_triples=ceil(num_safety / 2), num_examples=needed - num_safety)
    chat = chat_format(tokenizer, template=args.template)
    return METHODS["derta"].dataset(data, chat=chat, refusals=refusal_tokens(chat), config=config)


def load_data(
    args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, *, num_triples: int, num_examples: int
) -> TrainingSet:
    if args.random:
        text = RandomText(tokenizer, max_length=args.max_length)
        return random_training_set(text, num_triples=num_triples, num_examples=num_examples)
    triples = load_triples(args.data / "triples" / "aisafetylab.json", max_pairs_per_request=5)
    rng = random.Random(0)  # noqa: S311
    sample = rng.sample(triples, min(len(triples), num_triples))
    examples = []
    if args.mixture == "paper":
        examples = rng.sample(load_examples(args.data / "helpful" / "alpaca.json"), num_examples)
    return TrainingSet(sample, examples)


def main() -> None:
    args = parse()
    phase("imported")
    tokenizer = random_tokenizer() if args.random else load_tokenizer(args.model, trust_remote_code=False)
    model = (
        random_model(args.random, tokenizer) if args.random else load_model(args.model, dtype="float32", device=None)
    )
    with tempfile.TemporaryDirectory() as folder:
        sft = SftSteps(args, folder) if "trl" in args.against else None
        config = DertaConfig(
            folder, method="derta", num_train_epochs=1, max_steps=args.steps, global_batch_size=args.rows, seed=0,
            per_device_train_batch_size=args.micro_rows, max_length=args.max_length, pack_tokens=args.pack_tokens,
            sorry_dropout=args.sorry_dropout, bf16=args.dtype == "bf16", logging_steps=args.steps, disable_tqdm=True,
            template=args.template, num_threads=args.threads, compile_layers=args.compile,
        )  # fmt: skip
        peak = matmul_peak(torch.bfloat16 if args.dtype == "bf16" else torch.float32, config.device)
        phase(f"model is loaded; matrix products have {peak / 1e12:.1f} TFLOP/s on {config.device}")
        variants = Variants(args, model, sft)
        rows = load_rows(args, tokenizer, config)
        phase(f"{len(rows)} rows are encoded")
        trainer = DertaTrainer(model, config, train_dataset=rows, processing_class=tokenizer, callbacks=[variants])
        trainer.remove_callback(PrinterCallback)  # standard output is for the results
        variants.record(trainer)
        variants.after_step = partial(write_figures, args, variants, model, peak)
        phase("trainer is ready")
        trainer.train()
    print_figures(compute_figures(args, variants, model, peak))


def write_figures(args: argparse.Namespace, variants: Variants, model: nn.Module, peak: float) -> None:
    """Print the last step's seconds, and write the figures of the counted steps so far."""
    times = ", ".join(f"{name} {seconds[-1]:.2f} s" for name, seconds in variants.seconds.items())
    phase(f"step {len(variants.tokens)}: {variants.tokens[-1]} tokens, {times}")
    if args.json and len(variants.tokens) > COUNTED:
        args.json.write_text(json.dumps(compute_figures(args, variants, model, peak), indent=1) + "\n")


def compute_figures(args: argparse.Namespace, variants: Variants, model: nn.Module, peak: float) -> dict[str, Any]:
    """Return the figures of the counted steps; `peak` is the FLOP/s of a large matrix product."""
    device = next(model.parameters()).device
    tokens, labelled = sum(variants.tokens[COUNTED:]), sum(variants.labelled[COUNTED:])
    head = model.get_output_embeddings().weight.numel()
    trunk = sum(p.numel() for p in model.get_decoder().parameters()) - model.get_input_embeddings().weight.numel()
    flops = 6 * (trunk * tokens + head * labelled)
    measured: dict[str, Any] = {}
    for name, seconds in variants.seconds.items():
        rates = [t / s for t, s in zip(variants.tokens[COUNTED:], seconds[COUNTED:], strict=True)]
        measured[name] = {
            "tokens_per_second": round(tokens / sum(seconds[COUNTED:]), 1),
            "by_step": [round(rate, 1) for rate in rates],
            "seconds": round(sum(seconds[COUNTED:]), 2),
            "cpu_seconds": round(sum(variants.cpu_seconds[name][COUNTED:]), 2),
            "peak_gib": round(variants.peaks[name] / 2**30, 2),
            "padding": round(statistics.mean(variants.padding[name]), 3) if name in variants.padding else None,
            "share_of_matmul_peak": round(flops / sum(seconds[COUNTED:]) / peak, 3),
        }
    figures = {
        "machine": f"{platform.machine()}, {args.threads} threads, {device.type}, torch {torch.__version__}",
        "settings": {k: str(v) for k, v in vars(args).items() if k not in {"json", "model", "data"}},
        "steps": len(variants.tokens) - COUNTED, "tokens": tokens, "labelled": labelled,
        "matmul_peak_gflops": round(peak / 1e9), "variants": measured,
        "against": {name: compare(name, variants, measured) for name in args.against},
    }  # fmt: skip
    if "floor" in measured:
        figures["over_floor"] = round(measured["derta"]["seconds"] / measured["floor"]["seconds"], 3)
    return figures


def compare(name: str, variants: Variants, measured: dict[str, Any]) -> dict[str, Any]:
    """Return derta's speed and memory relative to another trainer's."""
    derta, other = measured["derta"], measured[name]
    seconds, others = variants.seconds["derta"][COUNTED:], variants.seconds[name][COUNTED:]
    return {
        "speed_ratio": round(sum(others) / sum(seconds), 2),
        "by_step": [round(a / b, 2) for a, b in zip(others, seconds, strict=True)],
        "memory_ratio": round(derta["peak_gib"] / other["peak_gib"], 2),
        "differences": DIFFERENCES[name],
    }


def print_figures(figures: dict[str, Any]) -> None:
    settings, tokens = figures["settings"], figures["tokens"]
    print(figures["machine"])
    print(
        f"{settings['mixture']}, {settings['dtype']}: {figures['steps']} steps, {tokens} tokens, "
        f"{figures['labelled'] / tokens:.0%} labelled"
    )
    for name, one in figures["variants"].items():
        print(f"{name:>10}: {one}")
    for name, one in figures["against"].items():
        print(
            f"derta has {one['speed_ratio']} times the tokens per second of {name} (by step {min(one['by_step']):.2f} "
            f"to {max(one['by_step']):.2f}) at {one['memory_ratio']} of its peak memory"
        )
        print(f"  {name}: {one['differences']}")
    if "over_floor" in figures:
        print(f"derta takes {figures['over_floor']} times the floor")


if __name__ == "__main__":
    main()
