"""Training speed and memory: derta's Trainer, a reference-style loop and a floor, step by step on the same rows.

Every optimizer step of a real `DertaTrainer` run is followed, on the same model, rows, optimizer and dtype, by

- `reference`: the same step in the manner of the released script: random micro-batches padded to the longest row,
  per-row relabelling in Python, the stock forward with every position's logits in fp32;
- `floor`: a bare forward and backward of the trunk over the same packed micro-batches, and the three matrix products
  that the labelled positions' projection costs; no softmax, no loss, no optimizer.

So all three share the machine's noise, and their ratio can be trusted where their times cannot. Useful tokens are those
that are no padding. Peak memory is the resident set's high-water mark (on a GPU: the allocator's), the model, its
gradients and the optimizer's state included.

    python benchmarks/train_speed.py --model $GEMMA_270M --data $DERTA_DATA --mixture paper
    python benchmarks/train_speed.py --model $GEMMA_270M --data $DERTA_DATA --mixture safety
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from contextlib import nullcontext
from math import ceil
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets them
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from torch import nn
from transformers import TrainerCallback

from derta.chat import chat_format, refusal_tokens
from derta.data.encoding import encode_example, encode_triple
from derta.data.helpful import read_examples
from derta.data.rows import IGNORE, instances
from derta.data.triples import read_triples
from derta.loading import load_model, load_tokenizer
from derta.train.config import DertaConfig
from derta.train.memory import peak_memory, reset_peak_memory
from derta.train.trainer import DertaTrainer

MEMORY_STEP, COUNTED = 1, 2
"""The step in which memory is measured, and the first whose time is counted."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a causal LM")
    parser.add_argument("--data", type=Path, required=True, help="folder of the public research data")
    parser.add_argument("--template", default="paper")
    parser.add_argument("--mixture", choices=["paper", "safety"], default="paper", help="paper: 10 helpful to 1 safety")
    parser.add_argument("--rows", type=int, default=16, help="rows of an optimizer step")
    parser.add_argument("--micro-rows", type=int, default=8, help="rows of a micro-batch: derta's and the floor's")
    parser.add_argument("--reference-micro-rows", type=int, default=4, help="the reference's: more need over 24 GiB")
    parser.add_argument("--steps", type=int, default=5, help="first: warm-up, second: memory")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--pack-tokens", type=int, default=1024)
    parser.add_argument("--sorry-dropout", type=float, default=0.95)
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--skip", nargs="*", default=[], choices=["reference", "floor"], help="variants left out")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model (ours only)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def load_rows(args: argparse.Namespace) -> tuple[list, object]:
    """The step's instances: helpful and safety rows as they come, ten to one or safety rows alone."""
    tokenizer = load_tokenizer(args.model, trust_remote_code=False)
    chat = chat_format(tokenizer, template=args.template)
    refusals = refusal_tokens(chat)
    needed = args.rows * args.steps
    num_safety = needed if args.mixture == "safety" else ceil(needed / 11)
    found = read_triples(str(args.data / "triples" / "aisafetylab.json"), max_pairs_per_request=5).triples
    rng = random.Random(0)  # noqa: S311
    triples = rng.sample(found, min(len(found), ceil(num_safety / 2)))
    helpful = []
    if args.mixture == "paper":
        helpful = rng.sample(read_examples(str(args.data / "helpful" / "alpaca.json")).examples, needed - num_safety)
    chosen = instances(
        harmful_prefix=True,
        rto=True,
        triples=[encode_triple(chat, triple, refusals=refusals) for triple in triples],
        examples=[encode_example(chat, example) for example in helpful],
    )
    return chosen, tokenizer


def begin_phase(*, measure_memory: bool) -> None:
    """To measure memory, give back what the variant before left, so that each one's peak is its own.

    That makes the next variant take its pages from the kernel again, so such a step's time is not counted.
    """
    if measure_memory:
        reset_peak_memory()


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def relabel(row, rng: random.Random, padded_length: int) -> list[int]:
    """What the released loop does for each row of each batch, in Python: keep every twentieth place of an RTO row."""
    if row.term != "rto":
        return row.labels
    kept = set(rng.sample(range(padded_length), ceil(padded_length / 20)))
    filled = [label if label != IGNORE else None for label in row.labels]
    word = next(label for label in filled if label is not None)
    start = next(i for i, label in enumerate(filled) if label is not None)
    return [word if i in kept and i >= start else IGNORE for i in range(len(row.labels))]


class Variants(TrainerCallback):
    """After every step of the Trainer's own, the same rows again in the other ways."""

    def __init__(self, args: argparse.Namespace, net: nn.Module, stock_forward) -> None:
        self.args, self.net, self.stock_forward = args, net, stock_forward
        self.rng = random.Random(0)  # noqa: S311
        self.seconds: dict[str, list[float]] = {}
        self.cpu_seconds: dict[str, list[float]] = {}
        self.peaks: dict[str, float] = {}
        self.tokens: list[int] = []
        self.labelled: list[int] = []
        self.padding: dict[str, list[float]] = {}
        self.step = 0
        self.given: list[tuple[dict, list]] = []
        self.batches: list[dict] = []
        self.rows: list = []

    def watch(self, trainer: DertaTrainer) -> None:
        """Keep the micro-batches that the Trainer is given, without touching what it does with them."""
        self.trainer = trainer
        plain = trainer.data_collator

        def kept(rows):
            batch = plain(rows)
            self.given.append((batch, rows))
            return batch

        trainer.data_collator = kept

    def on_train_begin(self, *_, **__):
        self.begin()

    def begin(self):
        begin_phase(measure_memory=self.step == MEMORY_STEP)
        self.started, self.started_cpu = now(), time.process_time()

    def on_step_end(self, args, state, control, **_):
        self.note("derta")
        taken = self.trainer.args.gradient_accumulation_steps  # the loader is one micro-batch ahead
        self.batches = [batch for batch, _ in self.given[:taken]]
        self.rows = [row for _, rows in self.given[:taken] for row in rows]
        del self.given[:taken]
        self.tokens.append(sum(len(row.input_ids) for row in self.rows))
        self.labelled.append(sum(len(batch["label_positions"]) for batch in self.batches))
        self.padding.setdefault("derta", []).append(
            1 - self.tokens[-1] / sum(batch["input_ids"].numel() for batch in self.batches)
        )
        if "floor" not in self.args.skip:
            self.timed("floor", self.floor_step)
        if "reference" not in self.args.skip:
            self.timed("reference", self.reference_step)
        self.step += 1
        self.begin()

    def timed(self, name, step):
        self.begin()
        step()
        self.note(name)

    def note(self, name):
        self.seconds.setdefault(name, []).append(now() - self.started)
        self.cpu_seconds.setdefault(name, []).append(time.process_time() - self.started_cpu)
        if self.step == MEMORY_STEP:
            self.peaks[name] = peak_memory()

    def autocast(self):
        device = self.trainer.args.device.type
        return torch.autocast(device, torch.bfloat16) if self.args.dtype == "bf16" else nullcontext()

    def reference_step(self):
        """Never compiled, and with autograd's own gradients: so is the released loop."""
        embedding = self.net.get_input_embeddings()
        in_place = embedding.__dict__.pop("forward", None)
        compiled = {module: module._compiled_call_impl for module in self.net.modules()}
        for module in compiled:
            module._compiled_call_impl = None
        self.reference_micro_batches()
        for module, call in compiled.items():
            module._compiled_call_impl = call
        if in_place is not None:
            embedding.forward = in_place

    def reference_micro_batches(self):
        device = self.trainer.args.device
        rows = self.rng.sample(self.rows, len(self.rows))
        size = self.args.reference_micro_rows
        micro = [rows[i : i + size] for i in range(0, len(rows), size)]
        padded = 0
        for batch in micro:
            width = -(-max(len(row.input_ids) for row in batch) // 8) * 8
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
            for i, row in enumerate(batch):
                length = len(row.input_ids)
                ids[i, :length], mask[i, :length] = torch.tensor(row.input_ids), 1
                labels[i, :length] = torch.tensor(relabel(row, self.rng, width))
            padded += ids.numel()
            with self.autocast():
                found = self.stock_forward(
                    input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device)
                )
            (found.loss.nan_to_num() / len(micro)).backward()
        self.padding.setdefault("reference", []).append(1 - self.tokens[-1] / padded)
        self.update()

    def floor_step(self):
        device = self.trainer.args.device
        for batch in self.batches:
            with self.autocast():
                trunk = self.net.get_decoder()(
                    input_ids=batch["input_ids"].to(device), position_ids=batch["position_ids"].to(device),
                    use_cache=False,
                )  # fmt: skip
                hidden = trunk.last_hidden_state.flatten(0, 1)[batch["label_positions"].to(device)]
            _Project.apply(hidden, self.net.get_output_embeddings().weight, self.args.dtype).backward()
        self.net.zero_grad()

    def update(self):
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.trainer.optimizer.step()
        self.net.zero_grad()


class _Project(torch.autograd.Function):
    """The labelled positions' projection and its two gradients, with a constant in place of the loss's."""

    @staticmethod
    def forward(ctx, hidden, weight, dtype):
        compute = torch.bfloat16 if dtype == "bf16" else torch.float32
        states, matrix = hidden.to(compute), weight.to(compute)
        grad_hidden, grad_weight = torch.empty_like(states), torch.zeros_like(weight)
        for part in torch.arange(len(states)).split(512):
            logits = states[part] @ matrix.T
            grad_hidden[part] = logits @ matrix
            grad_weight += logits.T @ states[part]
        ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_weight)
        return hidden.sum() * 0

    @staticmethod
    def backward(ctx, grad):
        return *ctx.saved_tensors, None


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a large square product, the best of several."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        start = now()
        a @ b
        best = min(best, now() - start)
    return 2 * size**3 / best


def main() -> None:
    args = parse()
    chosen, tokenizer = load_rows(args)
    net = load_model(args.model, dtype="float32", device=None)
    stock_forward = net.forward
    variants = Variants(args, net, stock_forward)
    with tempfile.TemporaryDirectory() as folder:
        config = DertaConfig(
            folder, method="derta", num_train_epochs=1, max_steps=args.steps, global_batch_size=args.rows, seed=0,
            per_device_train_batch_size=args.micro_rows, max_length=args.max_length, pack_tokens=args.pack_tokens,
            sorry_dropout=args.sorry_dropout, bf16=args.dtype == "bf16", logging_steps=args.steps, disable_tqdm=True,
            template=args.template, num_threads=args.threads, compile_layers=args.compile,
        )  # fmt: skip
        trainer = DertaTrainer(net, config, train_dataset=chosen, processing_class=tokenizer, callbacks=[variants])
        variants.watch(trainer)
        trainer.train()
    tell(args, variants, net)


def tell(args: argparse.Namespace, found: Variants, net: nn.Module) -> None:
    device = next(net.parameters()).device
    peak = matmul_peak(torch.bfloat16 if args.dtype == "bf16" else torch.float32, device)
    tokens, labelled = sum(found.tokens[COUNTED:]), sum(found.labelled[COUNTED:])
    head = net.get_output_embeddings().weight.numel()
    trunk = sum(p.numel() for p in net.get_decoder().parameters()) - net.get_input_embeddings().weight.numel()
    flops = 6 * (trunk * tokens + head * labelled)
    figures = {
        "machine": f"{platform.machine()}, {args.threads} threads, {device.type}, torch {torch.__version__}",
        "settings": {k: str(v) for k, v in vars(args).items() if k not in {"json", "model", "data"}},
        "steps": len(found.tokens) - COUNTED, "tokens": tokens, "labelled": labelled,
        "matmul_peak_gflops": round(peak / 1e9), "variants": {},
    }  # fmt: skip
    print(figures["machine"])
    print(f"{args.mixture}, {args.dtype}: {figures['steps']} steps, {tokens} tokens, {labelled / tokens:.0%} labelled")
    for name, seconds in found.seconds.items():
        rates = [t / s for t, s in zip(found.tokens[COUNTED:], seconds[COUNTED:], strict=True)]
        one = {
            "tokens_per_second": round(tokens / sum(seconds[COUNTED:]), 1),
            "by_step": [round(rate, 1) for rate in rates],
            "seconds": round(sum(seconds[COUNTED:]), 2),
            "cpu_seconds": round(sum(found.cpu_seconds[name][COUNTED:]), 2),
            "peak_gib": round(found.peaks[name] / 2**30, 2),
            "padding": round(statistics.mean(found.padding[name]), 3) if name in found.padding else None,
            "share_of_matmul_peak": round(flops / sum(seconds[COUNTED:]) / peak, 3),
        }
        figures["variants"][name] = one
        print(f"{name:>10}: {one}")
    ours = figures["variants"]["derta"]
    if "reference" in figures["variants"]:
        theirs = figures["variants"]["reference"]
        ratios = [
            a / b for a, b in zip(found.seconds["reference"][COUNTED:], found.seconds["derta"][COUNTED:], strict=True)
        ]
        figures["speed_ratio"] = round(theirs["seconds"] / ours["seconds"], 2)
        figures["memory_ratio"] = round(ours["peak_gib"] / theirs["peak_gib"], 2)
        print(f"derta is {figures['speed_ratio']} times as fast (by step {min(ratios):.2f} to {max(ratios):.2f}) "
              f"at {figures['memory_ratio']} of the peak memory")  # fmt: skip
    if "floor" in figures["variants"]:
        figures["over_floor"] = round(ours["seconds"] / figures["variants"]["floor"]["seconds"], 3)
        print(f"derta takes {figures['over_floor']} times the floor")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
