"""Speed of tree rows against separate rows: same triples, branches and labels, forward and backward, interleaved.

python benchmarks/tree_speed.py --model $DERTA_GEMMA_270M --data $DERTA_DATA --branches 4 --compile
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # same defaults as the command line
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch

from derta.chat import chat_format, refusal_tokens
from derta.config import RowConfig
from derta.data.rows import instances
from derta.data.triple_encoding import encode_triple
from derta.data.triples import load_triples
from derta.loading import load_model, load_tokenizer
from derta.train.collator import collate
from derta.train.dataset import RowDataset
from derta.train.loss import label_loss, use_label_loss
from derta.train.memory import keep_freed_memory
from derta.train.preparation import compile_layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--template", default="paper")
    parser.add_argument(
        "--triples", type=int, default=16, help="triples per round; use enough, because answers differ in length"
    )
    parser.add_argument("--at-once", type=int, default=2, help="triples per micro-batch")
    parser.add_argument("--branches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="the first is a warm-up and is not counted")
    parser.add_argument("--pack-tokens", type=int, default=2048)
    parser.add_argument("--sorry-dropout", type=float, default=0.95)
    parser.add_argument("--compile", action="store_true", help="compile the layers, for both variants")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    chat = chat_format(load_tokenizer(args.model, trust_remote_code=False), template=args.template)
    refusals = refusal_tokens(chat)
    triples = load_triples(args.data / "triples" / "aisafetylab.json")
    sample = random.Random(0).sample(triples, args.triples)  # noqa: S311
    rows_of_triples = instances(
        harmful_prefix=True, rto=True, triples=[encode_triple(chat, t, refusals=refusals) for t in sample], examples=[]
    )
    net = load_model(args.model, dtype="float32", device=None)
    use_label_loss(net, refusal_ids=refusals.ids, in_place=True)  # the default on a single CPU process
    if args.compile:
        compile_layers(net)
    net.train()
    batches = {name: micro_batches(rows_of_triples, args, trees=name == "trees") for name in ("separate", "trees")}
    seconds: dict[str, list[float]] = {"separate": [], "trees": []}
    for _ in range(args.rounds):
        for name, rows in batches.items():
            start = time.perf_counter()
            loss = sum(step(net, batch) for batch in rows)
            seconds[name].append(time.perf_counter() - start)
            tokens = sum(batch["input_ids"].numel() for batch in rows)
            print(f"{name:>9}: {seconds[name][-1]:.2f} s, {tokens} tokens with padding, sum of losses {loss:.2f}")
            net.zero_grad()
    ratios = [a / b for a, b in zip(seconds["separate"][1:], seconds["trees"][1:], strict=True)]
    mean = sum(seconds["separate"][1:]) / sum(seconds["trees"][1:])
    print(f"speedup of trees: {mean:.2f} (by round {min(ratios):.2f} to {max(ratios):.2f})")


def micro_batches(all_instances, args, *, trees: bool) -> list[dict]:
    """Return micro-batches of `at_once` triples each, as tree rows or as separate rows."""
    config = RowConfig(sorry_dropout=args.sorry_dropout, branches_per_triple=args.branches, tree_rows=trees)
    batches = []
    for start in range(0, args.triples, args.at_once):
        indices = range(start, min(start + args.at_once, args.triples))
        dataset = RowDataset([one for one in all_instances if one.source_index in indices], config=config, seed=0)
        rows = [dataset[i] for i in range(len(dataset))]
        batches.append(collate(rows, capacity=args.pack_tokens, pad_id=0))
    return batches


def step(net, batch) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        loss = label_loss(net, batch).loss
    loss.backward()
    return float(loss.detach())


if __name__ == "__main__":
    main()
