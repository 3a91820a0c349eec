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
CONTEXT.set_forkserver_preload(
    ["bitsandbytes", "peft", "transformers.trainer", "derta.methods.tuning", "derta.train.trainer", "derta.cli.main"]
)


class Ended(NamedTuple):
    """How a process ended."""

    returncode: int
    stdout: str
    stderr: str


def _execute(program: str, words: Sequence[str], environment: Mapping[str, str], outputs: tuple[Path, Path]) -> None:
    os.environ.update(environment)
    for descriptor, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    sys.argv = ["derta", *words]
    exec(program, {"__name__": "__main__"})  # noqa: S102 - the test's own


def start_fork(
    program: str, *words: object, environment: Mapping[str, str], outputs: tuple[Path, Path]
) -> multiprocessing.process.BaseProcess:
    """Start a program's text in a process of its own; standard output and error go to the two files."""
    process = CONTEXT.Process(target=_execute, args=(program, [*map(str, words)], dict(environment), outputs))
    process.start()
    return process


def run_forks(
    program: str, *words: object, folder: Path, environments: Sequence[Mapping[str, str]] = ({},)
) -> list[Ended]:
    """Run a program's text in one process for each environment, side by side; `words` are its arguments.

    What they write goes to files in `folder`.
    """
    files = [(folder / f"stdout-{number}", folder / f"stderr-{number}") for number in range(len(environments))]
    running = [
        start_fork(program, *words, environment=environment, outputs=outputs)
        for environment, outputs in zip(environments, files, strict=True)
    ]
    for process in running:
        process.join(timeout=300)
        process.kill()
        process.join()
    return [
        Ended(process.exitcode, *(path.read_text() for path in outputs))
        for process, outputs in zip(running, files, strict=True)
    ]


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


def launch_env(config: Path) -> dict[str, str]:
    """Return what `accelerate launch` puts into the environment of all processes for a config."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    words = ["--config_file", str(config), "-m", "derta.cli.main"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        return prepare_deepspeed_cmd_env(args)[1]
    return prepare_multi_gpu_env(args)
