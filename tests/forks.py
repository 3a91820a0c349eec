"""Python processes forked from one that has imported torch, transformers and derta, which takes a fresh one seconds."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["bitsandbytes", "peft", "transformers.trainer", "derta.train.fit", "derta.cli.main"])


class Ended(NamedTuple):
    """How a process ended."""

    returncode: int
    stderr: str


def _execute(program: str, words: Sequence[str], environment: Mapping[str, str], stderr: Path) -> None:
    os.environ.update(environment)
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
    sys.argv = ["derta", *words]
    exec(program, {"__name__": "__main__"})  # noqa: S102 - the test's own


def run_forks(
    program: str, *words: object, folder: Path, environments: Sequence[Mapping[str, str]] = ({},)
) -> list[Ended]:
    """Run a program's text in one process for each environment, side by side; `words` are its arguments.

    What they write to standard error goes to files in `folder`.
    """
    files = [folder / f"stderr-{number}" for number in range(len(environments))]
    running = [
        CONTEXT.Process(target=_execute, args=(program, [*map(str, words)], dict(environment), file))
        for environment, file in zip(environments, files, strict=True)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(timeout=300)
        process.kill()
        process.join()
    return [Ended(process.exitcode, file.read_text()) for process, file in zip(running, files, strict=True)]


def distributed(size: int) -> list[dict[str, str]]:
    """Return what `torchrun` puts into the environment of each of `size` processes on one machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    return [
        shared | {"MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        for rank in range(size)
    ]
