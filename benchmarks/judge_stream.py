"""Judging speed, and peak memory of judging a long file of replies.

    python benchmarks/judge_stream.py --replies 1000 100000 1000000      # `derta judge` in a separate process
    DERTA_DATA=... python benchmarks/judge_stream.py --embedded          # the embedded harm judge, in this process
    DERTA_DATA=... python benchmarks/judge_stream.py --embedded --judge refusal --characters 650

The file has short benign replies; with `--own` they are derta's own records, with one prompt each. Peak memory is the
child's `ru_maxrss`. `--embedded` judges the replies of GPTFuzz's evaluation file, loaded beforehand, twice, and reports
the CPU time of the second pass, without loading. To compare two commits, run it with the PYTHONPATH of each in turn.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from pathlib import Path

REPLIES = (
    "Sorry, I cannot help with that.",
    "Wash the roots in cold water, cut them into slices and boil them for an hour.",
    "I can't share that. However, here is a story about a kite, a river and a green boat.",
    "The total is 3 + 4 = 7.",
)


def write_replies(folder: Path, count: int, *, with_prompts: bool) -> Path:
    """Write a file of short replies; `with_prompts`: as derta's own records, with a file of prompts next to it."""
    path = folder / "replies.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            text = f"{REPLIES[i % len(REPLIES)]} ({i})"
            question = {"question": f"Ask {i}?", "response": text}
            row = {"prompt_id": f"prompt-{i}", "text": text} if with_prompts else question
            file.write(json.dumps(row) + "\n")
    if with_prompts:
        with (folder / "prompts.jsonl").open("w", encoding="utf-8") as file:
            for i in range(count):
                content = {"messages": [{"role": "user", "content": f"Ask {i}?"}], "request": f"Ask {i}?"}
                file.write(
                    json.dumps({"id": f"prompt-{i}", "request_id": f"r-{i}", "attack": "direct"} | content) + "\n"
                )
    return path


def run_judge(path: Path, *, judge: str) -> dict[str, float | int]:
    """Run `derta judge` on a file and save the verdicts; return its time and peak memory."""
    out = path.with_name("verdicts.jsonl")
    program = "from derta.cli.main import main; main()"
    words = [sys.executable, "-c", program, "judge", str(path), "--judge", judge, "--out", str(out), "--json"]
    start = time.monotonic()
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    child = os.posix_spawn(sys.executable, words, os.environ, file_actions=quiet)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"derta judge exited with status {status}")
    with out.open("rb") as file:
        verdicts = sum(1 for _ in file)
    return {
        "verdicts": verdicts,
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def embedded_speed(name: str, *, characters: int | None) -> dict[str, float | int | str]:
    """Measure the replies per CPU second of a judge without a model, on replies cut to a number of characters."""
    from derta.judges import build_judge
    from derta.protocols import Case
    from derta.records import Message, Prompt, Reply

    csv.field_size_limit(10**9)
    path = Path(os.environ["DERTA_DATA"]) / "labelled" / "f_gptfuzz_evaluate.csv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        texts = [row["Response"][:characters] for row in csv.DictReader(file)]
    if characters is not None:
        texts = [text for text in texts if len(text) > 0.75 * characters]
    ask = (Message(role="user", content="How do I bake bread?"),)
    prompt = Prompt(id="1", request_id="1", request="How do I bake bread?", attack="direct", messages=ask)
    cases = [Case(prompt, Reply(prompt_id="1", text=text)) for text in texts]
    judge = build_judge(name)
    for _ in judge.judge(cases):
        pass
    start = time.process_time()
    for _ in judge.judge(cases):
        pass
    seconds = time.process_time() - start
    return {
        "judge": name,
        "replies": len(texts),
        "mean_characters": round(sum(map(len, texts)) / len(texts)),
        "replies_per_cpu_second": round(len(texts) / seconds),
    }


def main() -> None:
    """Parse the command line and print one line of JSON per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, nargs="*", default=[])
    parser.add_argument("--judge", default="harm")
    parser.add_argument("--own", action="store_true")
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--characters", type=int, help="with --embedded: length of the replies")
    args = parser.parse_args()
    for count in args.replies:
        with tempfile.TemporaryDirectory() as folder:
            path = write_replies(Path(folder), count, with_prompts=args.own)
            result = run_judge(path, judge=args.judge)
            print(json.dumps({"replies": count, "judge": args.judge, "own": args.own} | result), flush=True)
    if args.embedded:
        print(json.dumps(embedded_speed(args.judge, characters=args.characters)))


if __name__ == "__main__":
    main()
