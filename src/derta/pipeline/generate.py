"""Generation of replies: only replies that are missing in the output file are generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from derta.errors import DataError, EngineError
from derta.files import Appender, read_records
from derta.pipeline.judge import engine_loader
from derta.pipeline.resuming import check_unique, read_keyed
from derta.protocols import Display, Engine
from derta.records import Prompt, Reply

if TYPE_CHECKING:
    from derta.config import EngineConfig


def generate_file(
    path: Path, *, model: EngineConfig, out: Path, max_new_tokens: int, display: Display = Display()
) -> list[Reply]:
    """Generate replies to a file of prompts, and return them; existing replies in `out` are not generated again.

    Raises:
        DataError: two prompts share an id, or `out` holds replies to other prompts.
        EngineError: an unknown engine or setting, or an option of a prompt that the engine does not support.
    """
    prompts = list(read_records(path, Prompt))
    check_unique(prompts)
    check_decoding(model.engine, prompts)
    limits = dict.fromkeys((prompt.id for prompt in prompts), max_new_tokens)
    return generate_missing(engine_loader(model)(), prompts, path=out, max_new_tokens=limits, display=display)


def generate_missing(
    engine: Engine,
    prompts: Sequence[Prompt],
    *,
    path: Path,
    max_new_tokens: Mapping[str, int],
    description: str = "replies",
    display: Display = Display(),
) -> list[Reply]:
    """Generate replies to the prompts without a reply in the file, and append each at once.

    Args:
        engine: The model's engine.
        prompts: All prompts.
        path: The file of replies.
        max_new_tokens: The token limit of each prompt, by prompt id.
        description: The label of the progress bar.
        display: Shows progress.

    Returns:
        A reply to each prompt, in order.

    Raises:
        DataError: the file holds replies to other prompts, or the engine returned no reply to a prompt.
    """
    done = read_keyed(path, Reply, prompts=prompts)
    todo = [prompt for prompt in prompts if (prompt.id, 0) not in done]
    with Appender(path) as file, display.progress.task(description, total=len(prompts)) as task:
        task.update(len(done))
        for limit in sorted({max_new_tokens[prompt.id] for prompt in todo}):
            same = [prompt for prompt in todo if max_new_tokens[prompt.id] == limit]
            for reply in engine.generate(same, max_new_tokens=limit):
                file.add(reply)
                done[reply.key] = reply
                task.update(len(done))
    missing = [prompt.id for prompt in prompts if (prompt.id, 0) not in done]
    if missing:
        raise DataError(f"{path}: expected a reply to every prompt, {len(missing)} are missing ({missing[0]!r} …)")
    return [done[prompt.id, 0] for prompt in prompts]


def check_decoding(engine: str, prompts: Sequence[Prompt]) -> None:
    """Validate that the engine supports the prompts' decoding options.

    Raises:
        EngineError: it does not; the message names the first such prompt.
    """
    unsupported = next((prompt.id for prompt in prompts if prompt.decoding is not None), None)
    if engine != "hf" and unsupported is not None:
        raise EngineError(
            f"engine {engine}: cannot ban tokens while decoding, as {unsupported!r} needs; use the engine hf"
        )
