"""Distributed launch: run a command in several processes with `accelerate launch`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from derta.errors import RunError

OPTIONS = ("--launch", "--num-processes")


def without_options(arguments: Sequence[str], options: Sequence[str] = OPTIONS) -> list[str]:
    """Return a command's arguments without some options and their values.

    >>> without_options(["train", "r.yaml", "--launch", "fsdp2.yaml", "--seed", "1", "--num-processes=2"])
    ['train', 'r.yaml', '--seed', '1']
    """
    remaining: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument.partition("=")[0] not in options:
            remaining.append(argument)
        skip = not skip and argument in options
    return remaining


def launch(config: Path, *, num_processes: int | None, arguments: Sequence[str]) -> NoReturn:
    """Run `derta ARGS` in the processes of an accelerate config, and exit with their exit code.

    Signals are forwarded to the processes. The launcher's error logs are disabled, because the processes print theirs.

    Raises:
        RunError: the config is missing or invalid, or cannot be launched on this machine.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    check_config(config, num_processes=num_processes)
    count = [] if num_processes is None else ["--num_processes", str(num_processes)]
    flags = ["--config_file", str(config), *count, "--module", "derta.cli.main"]
    logging.disable(logging.ERROR)
    try:
        launch_command(launch_command_parser().parse_args([*flags, *arguments]))
    except ChildFailedError as failed:
        code = failed.get_first_failure()[1].exitcode
        sys.exit(code if code > 0 else 128 - code)
    except SignalException as signal:
        sys.exit(128 + int(signal.sigval))
    except (ValueError, ImportError, AssertionError) as error:
        raise RunError(
            f"{config}: cannot be launched on this machine ({error}); use another config of recipes/accelerate"
        ) from error
    sys.exit(0)


def launch_again(config: Path, *, num_processes: int | None) -> NoReturn:
    """Run the current command again in the processes of an accelerate config; see `launch`."""
    launch(config, num_processes=num_processes, arguments=without_options(sys.argv[1:]))


def check_config(config: Path, *, num_processes: int | None) -> None:
    """Validate an accelerate config, and that the number of processes is known.

    Raises:
        RunError: the file is missing, is not a config, has unknown keys, or has no number of processes.
    """
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        parsed = load_config_from_file(str(config))
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        message = " ".join(str(error).split())[:200]
        raise RunError(f"{config}: expected an accelerate config, got {message}; see recipes/accelerate") from error
    if num_processes is None and getattr(parsed, "num_processes", -1) < 1:
        raise RunError(f"{config}: expected `num_processes`, got none; add it, or pass --num-processes")


def require_single_process(verb: str) -> None:
    """Validate that a command that runs in one process was not launched in several.

    Raises:
        RunError: torchrun or accelerate started more than one process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(
            f"{verb}: expected one process, got {os.environ['WORLD_SIZE']}; train with `derta train ... --launch "
            "CONFIG`, then run this command in one process"
        )
