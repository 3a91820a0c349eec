"""Training cost by number of rows: `fit` on 1,000, 2,000 and 4,000 real rows with a small random Llama.

python benchmarks/train_scale.py --tokenizer $DERTA_GEMMA_270M --data $DERTA_DATA
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # same defaults as the command line
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from derta.chat import chat_format
from derta.data.encoding import EncodedExample, encode_example
from derta.data.helpful import load_examples
from derta.data.rows import instances
from derta.loading import load_tokenizer
from derta.methods import METHODS, tune
from derta.train.config import DertaConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="model folder with the tokenizer")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="*", default=[500, 1000, 2000, 4000], help="the first is a warm-up")
    parser.add_argument("--vocab", type=int, default=32768, help="vocabulary size; ids are taken modulo it")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.tokenizer, trust_remote_code=False)
    chat = chat_format(tokenizer, template="paper")
    examples = load_examples(args.data / "helpful" / "alpaca.json")
    encoded = [reduce_vocab(encode_example(chat, one), args.vocab) for one in examples]
    rng = random.Random(0)  # noqa: S311
    settings = {
        "num_train_epochs": 1, "global_batch_size": 32, "per_device_train_batch_size": 16, "max_length": 256,
        "pack_tokens": 512, "template": "paper", "num_threads": args.threads,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=args.vocab, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(base)
        for count in args.rows:
            drawn = [encoded[rng.randrange(len(encoded))] for _ in range(count)]
            out, method = Path(folder) / f"model{count}", METHODS["vanilla"]
            tune(
                method, model=str(base), config=DertaConfig(str(out), method=method, disable_tqdm=True, **settings),
                data=instances(triples=[], examples=drawn), tokenizer=tokenizer, out=out,
            )  # fmt: skip
            log = json.loads((out / "train_log.json").read_text())
            seconds = next(entry["train_runtime"] for entry in log if "train_runtime" in entry)
            tokens = sum(len(one.prompt_ids) + len(one.response_ids) for one in drawn)
            print(
                f"{count} rows: {1000 * seconds / count:.2f} ms per row, {1e6 * seconds / tokens:.1f} us per token, "
                f"peak {log[-1]['peak_memory_gib']} GiB"
            )


def reduce_vocab(example: EncodedExample, vocab: int) -> EncodedExample:
    """Return a row of the same length with ids of a smaller vocabulary; only the time per row is measured."""
    prompt, response = ([i % vocab for i in ids] for ids in (example.prompt_ids, example.response_ids))
    return replace(example, prompt_ids=tuple(prompt), response_ids=tuple(response))


if __name__ == "__main__":
    main()
