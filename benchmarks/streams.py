"""Replies per second, and peak memory, of `derta generate --shard-rows` on local servers that answer at once.

    python benchmarks/streams.py --prompts 10000 100000             # two servers, each a process of its own
    python benchmarks/streams.py --prompts 10000 --kill             # one of the two is killed in the middle
    python benchmarks/streams.py --prompts 10000 --judge guideline  # also judge the replies, by a served model
    python benchmarks/streams.py --prompts 1000000 --no-http        # answers without the HTTP client, for memory

The servers speak just enough HTTP to be fast. Peak memory is the child's `ru_maxrss`. Afterwards, each prompt must have
exactly one reply, its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

ROWS = 10_000
MAIN = "from derta.cli.main import main; main()"
NO_HTTP = """
from derta.engines import openai_engine
from derta.engines.openai_answers import ChatAnswer

async def request(client, model, call, *, timeout):
    text = "About " + call.body["messages"][-1]["content"]
    return ChatAnswer.model_validate({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})

openai_engine.request = request
"""
QUIET = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of a connection: a chat with its question, a judge's rubric with a verdict."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            question = json.loads(await reader.readexactly(length))["messages"][-1]["content"]
            text = "VERDICT: SAFE" if "VERDICT" in question else f"About {question}"
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            body = json.dumps({"id": "x", "choices": [choice]}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
            writer.write(body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def serve(port: Connection) -> None:
    """Serve on a free port, which is sent to the parent."""

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def start_server() -> tuple[multiprocessing.Process, str]:
    """Start a server in a process of its own, and return it with its address."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=serve, args=(send,), daemon=True)
    process.start()
    return process, f"http://127.0.0.1:{receive.recv()}/v1"


def write_prompts(path: Path, count: int) -> None:
    """Write prompts of one short question each."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            question = f"How do I paint fence number {i}?"
            row = {"id": f"p{i}", "request_id": f"p{i}", "request": question, "attack": "direct"}
            file.write(json.dumps(row | {"messages": [{"role": "user", "content": question}]}) + "\n")


def run(*words: str, program: str = MAIN) -> dict[str, float]:
    """Run a command of derta in a child and return its seconds and peak memory."""
    start = time.monotonic()
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", program, *words], os.environ, file_actions=QUIET)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"derta {words[0]} exited with status {status}")
    cpu = usage.ru_utime + usage.ru_stime
    return {
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def answered(out: Path) -> Iterator[int]:
    """Yield the numbers of the prompts with a reply; each reply must be that to its prompt."""
    for path in sorted(out.glob("replies-*.jsonl")):
        for line in path.open(encoding="utf-8"):
            row = json.loads(line)
            number = int(row["prompt_id"][1:])
            if row["text"] != f"About How do I paint fence number {number}?":
                raise SystemExit(f"the reply to prompt {number} is another one")
            yield number


def kill_later(server: multiprocessing.Process, out: Path, count: int) -> None:
    """Kill a server once a shard in the middle exists."""
    middle = out / f"replies-{count // 2 // ROWS:05d}.jsonl"
    while not middle.exists():
        time.sleep(0.05)
    time.sleep(0.5)
    server.kill()


def measure(count: int, *, kill: bool, http: bool, concurrency: int, judge: str | None) -> dict[str, object]:
    """Generate replies to `count` prompts, check them, and return what it took."""
    servers = [start_server(), start_server()]
    try:
        with tempfile.TemporaryDirectory() as folder:
            prompts, out = Path(folder, "prompts.jsonl"), Path(folder, "out")
            write_prompts(prompts, count)
            if kill:
                threading.Thread(target=kill_later, args=(servers[1][0], out, count), daemon=True).start()
            endpoints = [word for _, url in servers for word in ("--endpoint", url)]
            shards = ["--shard-rows", str(ROWS), "--concurrency", str(concurrency), "--max-new-tokens", "20"]
            words = [str(prompts), "--engine", "api", "--model", "m", *endpoints, *shards, "--out", str(out)]
            taken = run("generate", *words, program=MAIN if http else NO_HTTP + MAIN)
            if sorted(answered(out)) != list(range(count)):
                raise SystemExit("a reply is missing, or there twice")
            result: dict[str, object] = {
                "prompts": count,
                "http": http,
                "killed": kill and not servers[1][0].is_alive(),
                **taken,
                "per_second": round(count / taken["seconds"]),
            }
            if judge is not None:
                model = ["--judge-model", "m", "--engine", "api", "--engine-option", f"endpoints={servers[0][1]}"]
                words = [*(model if judge == "guideline" else []), "--out", str(out)]
                result["judge"] = run("judge", str(out), "--judge", judge, "--prompts", str(prompts), *words)
                verdicts = sum(1 for path in out.glob("verdicts.*.jsonl") for _ in path.open("rb"))
                if verdicts != count:
                    raise SystemExit(f"expected {count} verdicts, got {verdicts}")
            return result
    finally:
        for process, _ in servers:
            process.kill()


def main() -> None:
    """Parse the command line and print one line of JSON per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[10_000])
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--kill", action="store_true", help="kill one of the two servers in the middle")
    parser.add_argument("--no-http", action="store_true", help="answer in the client's process")
    parser.add_argument("--judge", help="also judge the replies: refusal, harm, or guideline by a served model")
    args = parser.parse_args()
    for count in args.prompts:
        result = measure(count, kill=args.kill, http=not args.no_http, concurrency=args.concurrency, judge=args.judge)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
