"""Generation speed: the engine against a static loop, interleaved on parts of the same prompts.

The static loop is that of the released evaluation: file order, batches of 25 with left padding, float32, and `generate`
until the last row of a batch is finished. The prompts are from five attacks, shuffled: plain requests, openers
to complete, CodeAttack, SelfCipher (with harmless demonstrations from Alpaca) and prefills of several depths.

python benchmarks/generate_speed.py --model $DERTA_GEMMA_270M --data $DERTA_DATA
python benchmarks/generate_speed.py --model $DERTA_GEMMA_270M --data $DERTA_DATA --attacks self_cipher --prompts 50
python benchmarks/generate_speed.py --random 1b  # a random model and random words: no download

Figures are written after every part of the prompts, so that a run that is cut off leaves what it measured.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from phases import phase

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # same defaults as the command line
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from synthetic import SHAPES, RandomText, random_model, random_prompts, random_tokenizer

from derta.attacks import build_attack
from derta.chat import encode_prompt
from derta.data.requests import load_requests
from derta.data.triples import load_triples
from derta.engines import load_engine
from derta.engines.hf_engine import HfEngine, stop_tokens
from derta.records import Prompt, Request

BATCH_ROWS = 25
ATTACKS = ("direct", "completing", "code_attack", "self_cipher", "prefill")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", choices=SHAPES, help="random model and random words, instead of --model, --data")
    parser.add_argument("--model")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--template", default="paper")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=ATTACKS)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--parts", type=int, default=2, help="number of parts of the prompts; each is timed separately")
    parser.add_argument("--max-prompt-tokens", type=int, default=768, help="longer prompts are dropped")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--warm-up", type=int, default=2, help="prompts of the untimed replies before the first part")
    parser.add_argument("--warm-up-tokens", type=int, default=2, help="tokens of these replies")
    parser.add_argument(
        "--cudnn", type=int, default=0, metavar="PROMPTS",
        help="also time 16 tokens of the replies to some prompts with attention by cuDNN, and without (on a GPU)",
    )  # fmt: skip
    parser.add_argument("--dtype", default="bfloat16", help="dtype of derta; the static loop uses float32")
    parser.add_argument(
        "--check", type=int, default=50, help="number of prompts to run in float32 too, to compare tokens"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    args = parser.parse_args()
    if not args.random and not (args.model and args.data):
        parser.error("expected --model and --data, or --random")
    return args


def load_engines(args: argparse.Namespace) -> tuple[HfEngine, HfEngine]:
    """Return the engines of the static loop and of derta: the same weights in two dtypes."""
    if not args.random:
        static, ours = (
            load_engine(args.model, template=args.template, dtype=dtype) for dtype in ("float32", args.dtype)
        )
        return static, ours
    tokenizer = random_tokenizer()
    model = random_model(args.random, tokenizer, stop_share=1 / 64)
    static = load_engine(model, tokenizer=tokenizer)
    return static, load_engine(deepcopy(model).to(getattr(torch, args.dtype)), tokenizer=tokenizer)


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    phase("imported")
    static, ours = load_engines(args)
    phase(f"models are on {ours.model.device}")
    if args.random:
        text = RandomText(ours.chat.tokenizer, max_length=args.max_prompt_tokens)
        prompts = random_prompts(text, args.prompts)
    else:
        prompts = mixed_prompts(args, ours)
    lengths = [len(encode_prompt(ours.chat, prompt)) for prompt in prompts]
    print(f"{len(prompts)} prompts of {min(lengths)} to {max(lengths)} tokens, median {statistics.median(lengths):.0f}")
    warm_up = prompts[: args.warm_up]
    static_replies(static, warm_up, max_new_tokens=args.warm_up_tokens)
    list(ours.generate(warm_up, max_new_tokens=args.warm_up_tokens))
    phase("warmed up")
    figures: dict[str, Any] = {}
    token_ids = time_parts(static, ours, prompts, args=args, figures=figures)
    print(
        f"ours ({args.dtype}) is {figures['speed_ratio']:.2f} times as fast "
        f"(by part {min(figures['by_part']):.2f} to {max(figures['by_part']):.2f})"
    )
    if args.cudnn and ours.model.device.type == "cuda":
        figures |= time_cudnn(ours, prompts[: args.cudnn])
        phase(f"16 tokens: {figures['seconds_without_cudnn']} s, by cuDNN {figures['seconds_with_cudnn']} s")
    figures |= check_tokens(static, prompts[: args.check], token_ids, max_new_tokens=args.max_new_tokens)
    write(figures, args.json)


def time_parts(
    static: HfEngine, ours: HfEngine, prompts: Sequence[Prompt], *, args: argparse.Namespace, figures: dict[str, Any]
) -> dict[str, list[int]]:
    """Time both engines on each part of the prompts; return the tokens of the static loop, and update the figures."""
    token_ids: dict[str, list[int]] = {}
    seconds: dict[str, list[float]] = {"static": [], "ours": []}
    done = 0
    for part in (prompts[i :: args.parts] for i in range(args.parts)):
        start = time.perf_counter()
        token_ids |= static_replies(static, part, max_new_tokens=args.max_new_tokens)
        seconds["static"].append(time.perf_counter() - start)
        start = time.perf_counter()
        replies = list(ours.generate(part, max_new_tokens=args.max_new_tokens))
        seconds["ours"].append(time.perf_counter() - start)
        done += len(part)
        for name, times in seconds.items():
            phase(f"{name:>6}: {len(part)} replies in {times[-1]:.1f} s, {len(part) / times[-1]:.2f} a second")
        if sorted(reply.prompt_id for reply in replies) != sorted(prompt.id for prompt in part):
            raise SystemExit("expected one reply to each prompt")
        ratios = [a / b for a, b in zip(seconds["static"], seconds["ours"], strict=True)]
        figures |= {
            "prompts": done,
            "new_tokens": sum(map(len, token_ids.values())),
            "replies_per_second": {name: round(done / sum(times), 2) for name, times in seconds.items()},
            "speed_ratio": round(sum(seconds["static"]) / sum(seconds["ours"]), 2),
            "by_part": [round(ratio, 2) for ratio in ratios],
        }
        write(figures, args.json)
    return token_ids


def time_cudnn(engine: HfEngine, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Return the seconds of replies of 16 tokens with attention by cuDNN and without, in shapes of their own."""
    found: dict[str, float] = {}
    for name, enabled in (("with", True), ("without", False)):
        torch.backends.cuda.enable_cudnn_sdp(enabled)
        list(engine.generate(prompts[:2], max_new_tokens=2))  # a first call loads libraries
        start = time.perf_counter()
        list(engine.generate(prompts, max_new_tokens=16))
        found[f"seconds_{name}_cudnn"] = round(time.perf_counter() - start, 2)
    return found


def check_tokens(
    engine: HfEngine, prompts: Sequence[Prompt], expected: Mapping[str, list[int]], *, max_new_tokens: int
) -> dict[str, int]:
    """Return how many replies of the engine in float32 have the static loop's tokens."""
    start = time.perf_counter()
    same = sum(
        list(reply.token_ids) == expected[reply.prompt_id]
        for reply in engine.generate(prompts, max_new_tokens=max_new_tokens)
    )
    rate = len(prompts) / (time.perf_counter() - start)
    phase(
        f"in float32 both: {same} of {len(prompts)} replies have the static loop's very tokens, {rate:.2f} replies "
        "a second"
    )
    return {"same_tokens": same, "checked": len(prompts)}


def write(figures: Mapping[str, Any], path: Path | None) -> None:
    """Write the figures so far."""
    if path:
        path.write_text(json.dumps(figures, indent=1) + "\n")


@torch.inference_mode()
def static_replies(engine: HfEngine, prompts: Sequence[Prompt], *, max_new_tokens: int) -> dict[str, list[int]]:
    """Return the tokens generated for each prompt, without the stop token."""
    stop_ids = sorted(stop_tokens(engine.model, engine.chat))
    device = engine.model.device
    token_ids: dict[str, list[int]] = {}
    for start in range(0, len(prompts), BATCH_ROWS):
        batch = prompts[start : start + BATCH_ROWS]
        rows = [encode_prompt(engine.chat, prompt) for prompt in batch]
        longest = max(len(row) for row in rows)
        input_ids = torch.tensor([[stop_ids[0]] * (longest - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        output = engine.model.generate(
            input_ids, attention_mask=mask, do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stop_ids,
            pad_token_id=stop_ids[0],
        )  # fmt: skip
        for prompt, tokens in zip(batch, output[:, longest:].tolist(), strict=True):
            end = next((i for i, token in enumerate(tokens) if token in stop_ids), len(tokens))
            token_ids[prompt.id] = tokens[:end]
    return token_ids


def mixed_prompts(args: argparse.Namespace, engine: HfEngine) -> list[Prompt]:
    """Return the same number of prompts of each attack, shuffled."""
    rng = random.Random(0)  # noqa: S311
    each = -(-args.prompts // len(args.attacks))
    prompts: list[Prompt] = []
    for name in args.attacks:
        crafted = attack_prompts(name, args.data)
        short = [prompt for prompt in crafted if len(encode_prompt(engine.chat, prompt)) <= args.max_prompt_tokens]
        prompts += rng.sample(short, each)
    rng.shuffle(prompts)
    return prompts[: args.prompts]


def attack_prompts(name: str, data: Path) -> list[Prompt]:
    requests = load_requests(data / "requests" / "harmbench_test.csv")
    options: dict = {}
    if name == "completing":
        requests, options = load_requests(data / "published" / "prompts_completing.jsonl"), {"rewriting": "none"}
    if name == "prefill":
        triples = load_triples(data / "triples" / "aisafetylab.json")
        requests = [Request(id=t.id, text=t.query, harmful=t.harmful) for t in triples]
        options = {"depths": ["5%", "25%", "50%"]}
    if name != "self_cipher":
        return craft(name, requests, options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demonstrations.json"
        answers = [row["output"] for row in json.loads((data / "helpful" / "alpaca.json").read_text())]
        path.write_text(json.dumps([answer for answer in answers if 300 < len(answer) < 400][:5]))
        return craft(name, requests, {"demonstrations": str(path), "role": "user"})


def craft(name: str, requests: list[Request], options: dict) -> list[Prompt]:
    return build_attack(name, options).craft(requests)


if __name__ == "__main__":
    main()
