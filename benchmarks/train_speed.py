"""Training speed and memory: `DertaTrainer` against other trainers, step by step on the same rows.

Every optimizer step of a real `DertaTrainer` run is followed, on the same model, rows, optimizer and dtype, by

- `reference`: the same step in the manner of the released script: random micro-batches padded to the longest row,
  per-row relabelling in Python, the stock forward with every position's logits in fp32;
- `trl` (`--against trl`): a real `SFTTrainer.train()` of one step on the step's rows as they were drawn (`input_ids`
  and `labels`), gradient checkpointing off;
- `floor`: a bare forward and backward of the trunk over the same packed micro-batches, and the three matrix products
  that the labelled positions' projection costs; no softmax, no loss, no optimizer.

So all share the machine's noise, and their ratio can be trusted where their times cannot. Useful tokens are those
that are no padding. Peak memory is the resident set's high-water mark (on a GPU: the allocator's), the model, its
gradients and the optimizer's state included. `DIFFERENCES` lists what is not the same, and is printed with the result.

    python benchmarks/train_speed.py --model $GEMMA_270M --data $DERTA_DATA --mixture paper
    python benchmarks/train_speed.py --model $GEMMA_270M --data $DERTA_DATA --mixture safety
    python benchmarks/train_speed.py --model $GEMMA_270M --data $DERTA_DATA --micro-rows 16 --compile --against trl
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import ceil
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets them
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers send some

import torch
from accelerate.state import GradientState
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from derta import METHODS, DertaConfig, DertaTrainer, load_examples, load_triples
from derta.chat import chat_format, refusal_tokens
from derta.data.mixture import TrainingSet
from derta.data.rows import IGNORE, Instance, TrainRow
from derta.loading import load_model, load_tokenizer
from derta.train.memory import peak_memory, reset_peak_memory

MEMORY_STEP, COUNTED = 1, 2
"""The step in which memory is measured, and the first whose time is counted."""

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
"""What is not the same beside the trainer itself."""


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
    parser.add_argument(
        "--against", nargs="+", default=["reference"], choices=["reference", "trl"], help="what to compare with"
    )
    parser.add_argument("--trl-micro-rows", type=int, help="rows of a micro-batch of TRL's; default: as --micro-rows")
    parser.add_argument("--trl-padding-free", action="store_true", help="a micro-batch of TRL's is one sequence")
    parser.add_argument("--skip", nargs="*", default=[], choices=["reference", "floor"], help="variants left out")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model (ours only)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    args.against = [name for name in args.against if name not in args.skip]
    args.trl_micro_rows = args.trl_micro_rows or args.micro_rows
    if args.rows % args.trl_micro_rows:
        parser.error(f"--trl-micro-rows: expected a divisor of --rows ({args.rows}), got {args.trl_micro_rows}")
    return args


def load_rows(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, config: DertaConfig) -> Sequence[Instance]:
    """DeRTa's instances of as many rows as are needed: ten helpful to one safety row, or safety rows alone."""
    needed = args.rows * args.steps
    num_safety = needed if args.mixture == "safety" else ceil(needed / 11)
    found = load_triples(args.data / "triples" / "aisafetylab.json", max_pairs_per_request=5)
    rng = random.Random(0)  # noqa: S311
    triples = rng.sample(found, min(len(found), ceil(num_safety / 2)))
    examples = []
    if args.mixture == "paper":
        examples = rng.sample(load_examples(args.data / "helpful" / "alpaca.json"), needed - num_safety)
    chat = chat_format(tokenizer, template=args.template)
    data = TrainingSet(triples, examples)
    return METHODS["derta"].dataset(data, chat=chat, refusals=refusal_tokens(chat), config=config)


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


def relabel(row: TrainRow, rng: random.Random, padded_length: int) -> list[int]:
    """What the released loop does for each row of each batch, in Python: keep every twentieth place of an RTO row."""
    if row.term != "rto":
        return row.labels
    kept = set(rng.sample(range(padded_length), ceil(padded_length / 20)))
    filled = [label if label != IGNORE else None for label in row.labels]
    word = next(label for label in filled if label is not None)
    start = next(i for i, label in enumerate(filled) if label is not None)
    return [word if i in kept and i >= start else IGNORE for i in range(len(row.labels))]


@contextmanager
def stock(net: PreTrainedModel) -> Iterator[None]:
    """Inside, the model as it was loaded: its own forward, not compiled, all gradients by autograd."""
    embedding = net.get_input_embeddings()
    in_place = embedding.__dict__.pop("forward", None)
    compiled = {module: module._compiled_call_impl for module in net.modules()}
    for module in compiled:
        module._compiled_call_impl = None
    forwards = {name: net.__dict__.pop(name, None) for name in ("forward", "_original_forward")}
    yield
    for name, forward in forwards.items():
        net.__dict__.pop(name, None)
        if forward is not None:
            net.__dict__[name] = forward
    for module, call in compiled.items():
        module._compiled_call_impl = call
    if in_place is not None:
        embedding.forward = in_place


class SftSteps:
    """TRL's SFTTrainer on one step's rows at a time; a new trainer for each, around the same model and optimizer."""

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        import datasets
        from trl import SFTConfig

        datasets.disable_progress_bars()
        self.micro_rows = args.trl_micro_rows
        self.padding_free = args.trl_padding_free
        self.config = SFTConfig(
            folder, max_steps=1, per_device_train_batch_size=args.trl_micro_rows,
            gradient_accumulation_steps=args.rows // args.trl_micro_rows,
            lr_scheduler_type="constant", bf16=args.dtype == "bf16", gradient_checkpointing=False,
            max_length=None if self.padding_free else args.max_length, padding_free=self.padding_free,
            train_sampling_strategy="sequential", save_strategy="no", logging_strategy="no", report_to="none",
            disable_tqdm=True, seed=0, use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
        )  # fmt: skip

    def padding(self, rows: Sequence[TrainRow]) -> float:
        """The share of padding in its micro-batches."""
        lengths = [len(row.input_ids) for row in rows]
        size = len(lengths) if self.padding_free else self.micro_rows
        parts = [lengths[i : i + size] for i in range(0, len(lengths), size)]
        return 0.0 if self.padding_free else 1 - sum(lengths) / sum(len(part) * max(part) for part in parts)

    def step(self, trainer: DertaTrainer, rows: Sequence[TrainRow], *, stopwatch: TrainerCallback) -> None:
        """Train one step; the stopwatch runs from the beginning of the training to the end of the step."""
        from datasets import Dataset
        from trl import SFTTrainer

        given = Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
        shared = dict(GradientState._shared_state)  # one for all accelerators of a process
        net: Any = trainer.model
        with stock(net):
            sft = SFTTrainer(
                net, self.config, train_dataset=given, processing_class=trainer.processing_class,
                callbacks=[stopwatch], optimizers=(trainer.optimizer, None),
            )  # fmt: skip
            if len(sft.train_dataset) != len(rows):
                raise SystemExit(f"expected TRL to train on {len(rows)} rows, got {len(sft.train_dataset)}")
            sft.remove_callback(PrinterCallback)
            sft.train()
        GradientState._shared_state.clear()
        GradientState._shared_state.update(shared)


class Stopwatch(TrainerCallback):
    """Calls what it is given when a training begins and when a step ends."""

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self.begin, self.end = begin, end

    def on_train_begin(self, *_, **__):
        self.begin()

    def on_step_end(self, *_, **__):
        self.end()


class Variants(TrainerCallback):
    """After every step of the Trainer's own, the same rows again in the other ways."""

    def __init__(self, args: argparse.Namespace, net: PreTrainedModel, sft: SftSteps | None) -> None:
        self.args, self.net, self.sft = args, net, sft
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
        self.rows: list[TrainRow] = []

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
        if "reference" in self.args.against:
            self.timed("reference", self.reference_step)
        if self.sft is not None:
            stopwatch = Stopwatch(self.begin, lambda: self.note("trl"))
            self.sft.step(self.trainer, self.rows, stopwatch=stopwatch)
            self.padding.setdefault("trl", []).append(self.sft.padding(self.rows))
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
        with stock(self.net):
            self.reference_micro_batches()

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
                found = self.net(input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device))
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
    tokenizer = load_tokenizer(args.model, trust_remote_code=False)
    net = load_model(args.model, dtype="float32", device=None)
    with tempfile.TemporaryDirectory() as folder:
        sft = SftSteps(args, folder) if "trl" in args.against else None
        config = DertaConfig(
            folder, method="derta", num_train_epochs=1, max_steps=args.steps, global_batch_size=args.rows, seed=0,
            per_device_train_batch_size=args.micro_rows, max_length=args.max_length, pack_tokens=args.pack_tokens,
            sorry_dropout=args.sorry_dropout, bf16=args.dtype == "bf16", logging_steps=args.steps, disable_tqdm=True,
            template=args.template, num_threads=args.threads, compile_layers=args.compile,
        )  # fmt: skip
        variants = Variants(args, net, sft)
        trainer = DertaTrainer(
            net, config, train_dataset=load_rows(args, tokenizer, config), processing_class=tokenizer,
            callbacks=[variants],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # standard output is for the figures
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
    for name in args.against:
        theirs = figures["variants"][name]
        ratios = [a / b for a, b in zip(found.seconds[name][COUNTED:], found.seconds["derta"][COUNTED:], strict=True)]
        one = {
            "speed_ratio": round(theirs["seconds"] / ours["seconds"], 2),
            "by_step": [round(ratio, 2) for ratio in ratios],
            "memory_ratio": round(ours["peak_gib"] / theirs["peak_gib"], 2),
            "differences": DIFFERENCES[name],
        }
        figures.setdefault("against", {})[name] = one
        print(f"derta has {one['speed_ratio']} times the tokens per second of {name} (by step {min(ratios):.2f} to "
              f"{max(ratios):.2f}) at {one['memory_ratio']} of its peak memory")  # fmt: skip
        print(f"  {name}: {DIFFERENCES[name]}")
    if "floor" in figures["variants"]:
        figures["over_floor"] = round(ours["seconds"] / figures["variants"]["floor"]["seconds"], 3)
        print(f"derta takes {figures['over_floor']} times the floor")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
