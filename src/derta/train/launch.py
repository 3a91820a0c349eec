"""Run a command in several processes: accelerate starts them, and this process ends as they do."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from derta.errors import RunError

OPTIONS = ("--launch", "--num-processes")


def without_options(words: Sequence[str], options: Sequence[str] = OPTIONS) -> list[str]:
    """A command's words without some options and their values.

    >>> without_options(["train", "r.yaml", "--launch", "fsdp2.yaml", "--seed", "1", "--num-processes=2"])
    ['train', 'r.yaml', '--seed', '1']
    """
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word.partition("=")[0] not in options:
            kept.append(word)
        skip = not skip and word in options
    return kept


def launch(config: Path, *, num_processes: int | None, words: Sequence[str]) -> NoReturn:
    """Run `derta WORDS` in the processes that an accelerate config names, and exit as they did.

    Signals reach the processes; the launcher's own reports on them are left out, because they have told theirs.

    Raises:
        RunError: the config is missing or not one of accelerate's, or cannot be started on this machine.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    check_config(config, num_processes=num_processes)
    count = [] if num_processes is None else ["--num_processes", str(num_processes)]
    flags = ["--config_file", str(config), *count, "--module", "derta.cli.main"]
    logging.disable(logging.ERROR)
    try:
        launch_command(launch_command_parser().parse_args([*flags, *words]))
    except ChildFailedError as failed:
        code = failed.get_first_failure()[1].exitcode
        sys.exit(code if code > 0 else 128 - code)
    except SignalException as signalled:
        sys.exit(128 + int(signalled.sigval))
    except (ValueError, ImportError, AssertionError) as error:
        raise RunError(
            f"{config}: cannot be launched here ({error}); use another config of recipes/accelerate"
        ) from error
    sys.exit(0)


def launch_again(config: Path, *, num_processes: int | None) -> NoReturn:
    """Run this command again, in the processes that an accelerate config names; see `launch`."""
    launch(config, num_processes=num_processes, words=without_options(sys.argv[1:]))


def check_config(config: Path, *, num_processes: int | None) -> None:
    """Read a config as accelerate does, and see that it says how many processes.

    Raises:
        RunError: it is missing, has unknown keys, or is not a config.
    """
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        read = load_config_from_file(str(config))
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())[:200]
        raise RunError(f"{config}: expected a config of accelerate's, got {told}; see recipes/accelerate") from error
    if num_processes is None and getattr(read, "num_processes", -1) < 1:
        raise RunError(f"{config}: expected `num_processes`, got none; add it, or give --num-processes")


def require_single_process(verb: str) -> None:
    """Stop a verb that is one process's work.

    Raises:
        RunError: torchrun or accelerate started more than one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(
            f"{verb}: expected one process, got {os.environ['WORLD_SIZE']}; train with `derta train ... --launch "
            "CONFIG`, then run the rest in one"
        )
