"""Generation of replies: only replies that are missing in the output file are generated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from derta.errors import DataError, EngineError
from derta.files import Appender, read_records, write_records
from derta.locks import check_output, lock
from derta.pipeline.judge import engine_loader
from derta.pipeline.resuming import Expected, check_unique, read_results
from derta.protocols import Display, Engine, UnansweredError
from derta.provenance import Producer, prompt_hash
from derta.records import Prompt, Reply, ReplyKey

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
    try:
        prompts = list(read_records(path, Prompt))
    except DataError as error:
        advice = f"`derta attack direct --requests {path} --out prompts.jsonl` makes prompts of requests"
        raise DataError(f"{error}; {advice}") from error
    check_unique(prompts)
    check_decoding(model.engine, prompts)
    check_output(out, [path])
    load = engine_loader(model)
    expected = expected_replies(
        prompts, producer=load.producer(), max_new_tokens=dict.fromkeys((one.id for one in prompts), max_new_tokens)
    )
    return generate_missing(load, prompts, path=out, expected=expected, display=display)


def expected_replies(
    prompts: Iterable[Prompt], *, producer: Producer, max_new_tokens: Mapping[str, int]
) -> dict[ReplyKey, Expected]:
    """Return the provenance of the reply to each prompt; `max_new_tokens` has the limit of each, by id."""
    return {
        (one.id, 0): Expected(prompt_hash(one), {**producer, "max_new_tokens": str(max_new_tokens[one.id])})
        for one in prompts
    }


def generate_missing(
    load: Callable[[], Engine],
    prompts: Sequence[Prompt],
    *,
    path: Path,
    expected: Mapping[ReplyKey, Expected],
    description: str = "replies",
    display: Display = Display(),
) -> list[Reply]:
    """Generate replies to the prompts without a reply in the file, and append each at once.

    Args:
        load: Loads the model; called once, if a reply is missing.
        prompts: All prompts.
        path: The file of the replies.
        expected: The provenance of each reply (see `expected_replies`).
        description: Named beside the progress bar.
        display: Where progress is shown.

    Returns:
        A reply to each prompt, in order; that of a prompt which the server does not answer is `unanswered`.

    Raises:
        UnansweredError: all attempts for a prompt failed, for the first time: the next call tries it once more, and a
            second failure is recorded as its reply. Or the server answered no prompt of the file and rejected some.
        DataError: the engine left a prompt without a reply.
        RunError: the file holds replies to other prompts or of another producer, or another process writes it.
    """
    limits = {prompt.id: int(expected[prompt.id, 0].producer["max_new_tokens"]) for prompt in prompts}
    failed_before = _drop_failed(path, expected)
    failures: list[UnansweredError] = []
    with lock(path):
        done = read_results(path, Reply, expected)

        def add(reply: Reply) -> None:
            stamped = expected[reply.key].stamp(reply)
            file.add(stamped)
            done[stamped.key] = stamped
            task.update(len(done))

        remaining = [prompt for prompt in prompts if (prompt.id, 0) not in done]
        with Appender(path) as file, display.progress.task(description, total=len(prompts)) as task:
            task.update(len(done))
            engine = load() if remaining else None
            for limit in sorted({limits[prompt.id] for prompt in remaining}):
                batch = [prompt for prompt in remaining if limits[prompt.id] == limit]
                assert engine is not None  # noqa: S101 - prompts remain
                try:
                    for reply in engine.generate(batch, max_new_tokens=limit):
                        add(reply)
                except UnansweredError as error:
                    if all(reply.unanswered for reply in done.values()):
                        raise
                    for reply in error.replies:
                        add(reply)
                    if any(one.unanswered == "failed" and one.key not in failed_before for one in error.replies):
                        failures.append(error)
    if failures:
        raise failures[0]
    _log_unanswered(path, list(done.values()), display)
    missing = [prompt.id for prompt in prompts if (prompt.id, 0) not in done]
    if missing:
        raise DataError(f"{path}: expected a reply to every prompt, {len(missing)} are missing ({missing[0]!r} …)")
    return [done[prompt.id, 0] for prompt in prompts]


def _drop_failed(path: Path, expected: Mapping[ReplyKey, Expected]) -> set[ReplyKey]:
    """Remove the records of failed attempts from a file, so that they are generated, and return their keys."""
    if not path.exists():
        return set()
    with lock(path):
        done = read_results(path, Reply, expected)
        failed = {key for key, reply in done.items() if reply.unanswered == "failed"}
        if failed:
            write_records(path, [reply for key, reply in done.items() if key not in failed])
    return failed


def _log_unanswered(path: Path, replies: Sequence[Reply], display: Display) -> None:
    if unanswered := [reply for reply in replies if reply.unanswered]:
        display.logger.warning(
            "%s: %d of %d prompts are unanswered, first %r (%s: %.300s); they count as unanswered in every rate",
            path,
            len(unanswered),
            len(replies),
            unanswered[0].prompt_id,
            unanswered[0].unanswered,
            unanswered[0].reason,
        )


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
