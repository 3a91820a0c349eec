"""Generation of replies: only replies that are missing in the output file are generated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from derta.errors import DataError, EngineError
from derta.files import Appender, read_records, write_records
from derta.locks import check_output, lock
from derta.pipeline.judge import engine_loader
from derta.pipeline.resuming import Expected, check_unique, read_results
from derta.protocols import Display, Engine, UnansweredError
from derta.provenance import Producer, prompt_hash
from derta.records import Prompt, Reply, ReplyKey
from derta.sampling import GREEDY, Sampling

if TYPE_CHECKING:
    from derta.config import EngineConfig


def generate_file(
    path: Path,
    *,
    model: EngineConfig,
    out: Path,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    display: Display = Display(),
) -> list[Reply]:
    """Generate replies to a file of prompts, and return them; existing replies in `out` are not generated again.

    Replies in `out` of a sampling with fewer samples are part of one with more.

    Raises:
        DataError: two prompts share an id, or `out` holds replies to other prompts.
        EngineError: an unknown engine or setting, or an option of a prompt that the engine does not support.
    """
    prompts = list(read_prompts(path))
    check_unique(prompts)
    check_decoding(model.engine, prompts)
    check_output(out, [path])
    load = engine_loader(model)
    ids = [one.id for one in prompts]
    expected = expected_replies(
        prompts,
        producer=load.producer(),
        max_new_tokens=dict.fromkeys(ids, max_new_tokens),
        samplings=dict.fromkeys(ids, sampling),
    )
    return generate_missing(load, prompts, path=out, expected=expected, display=display)


def read_prompts(path: Path) -> Iterator[Prompt]:
    """Yield the prompts of a file one by one.

    Raises:
        DataError: a line is no prompt; the message says how prompts are made of requests.
    """
    try:
        yield from read_records(path, Prompt)
    except DataError as error:
        advice = f"`derta attack direct --requests {path} --out prompts.jsonl` makes prompts of requests"
        raise DataError(f"{error}; {advice}") from error


def expected_replies(
    prompts: Iterable[Prompt],
    *,
    producer: Producer,
    max_new_tokens: Mapping[str, int],
    samplings: Mapping[str, Sampling] | None = None,
) -> dict[ReplyKey, Expected]:
    """Return the provenance of each reply to each prompt.

    Args:
        prompts: The prompts.
        producer: The provenance of the engine.
        max_new_tokens: The limit of each prompt's replies, by id.
        samplings: How the replies to each prompt are sampled, by id; None: greedily.
    """
    expected: dict[ReplyKey, Expected] = {}
    for one in prompts:
        sampling = GREEDY if samplings is None else samplings[one.id]
        own = {**producer, "max_new_tokens": str(max_new_tokens[one.id]), **sampling.producer}
        provenance = Expected(prompt_hash(one), own)
        expected |= {(one.id, number): provenance for number in sampling.numbers}
    return expected


class _Batch(NamedTuple):
    """Settings that the replies of one call of an engine have in common."""

    max_new_tokens: int
    sampling: Sampling


def _batches(
    prompts: Sequence[Prompt], keys: Iterable[ReplyKey], expected: Mapping[ReplyKey, Expected]
) -> dict[_Batch, list[Prompt]]:
    """Return the prompts of each call that generates some replies, those with the lowest limit first."""
    numbers: dict[str, list[int]] = {}
    for prompt_id, number in keys:
        numbers.setdefault(prompt_id, []).append(number)
    batches: dict[_Batch, list[Prompt]] = {}
    for prompt in prompts:
        if samples := numbers.get(prompt.id):
            producer = expected[prompt.id, samples[0]].producer
            batch = _Batch(int(producer["max_new_tokens"]), _sampling_of(producer, tuple(sorted(samples))))
            batches.setdefault(batch, []).append(prompt)
    return dict(sorted(batches.items(), key=lambda one: one[0].max_new_tokens))


def _sampling_of(producer: Producer, numbers: tuple[int, ...]) -> Sampling:
    if "temperature" not in producer:
        return GREEDY
    temperature, top_p = float(producer["temperature"]), float(producer["top_p"])
    return Sampling(temperature=temperature, top_p=top_p, seed=int(producer["seed"])).only(numbers)


def generate(engine: Engine, prompts: Sequence[Prompt], *, max_new_tokens: int, sampling: Sampling) -> Iterator[Reply]:
    """Return the replies of one call; an engine of a user's own that only decodes greedily needs no `sampling`."""
    if sampling.is_greedy:
        return engine.generate(prompts, max_new_tokens=max_new_tokens)
    return engine.generate(prompts, max_new_tokens=max_new_tokens, sampling=sampling)


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
        The replies in the order of `expected`; that of a prompt which the server does not answer is `unanswered`.

    Raises:
        UnansweredError: all attempts for a prompt failed, for the first time: the next call tries it once more, and a
            second failure is recorded as its reply. Or the server answered no prompt of the file and rejected some.
        DataError: the engine left a prompt without a reply.
        RunError: the file holds replies to other prompts or of another producer, or another process writes it.
    """
    failed_before = drop_failed(path, expected)
    failures: list[UnansweredError] = []
    with lock(path):
        done = read_results(path, Reply, expected)

        def add(reply: Reply) -> None:
            stamped = expected[reply.key].stamp(reply)
            file.add(stamped)
            done[stamped.key] = stamped
            task.update(len(done))

        batches = _batches(prompts, expected.keys() - done.keys(), expected)
        with Appender(path) as file, display.progress.task(description, total=len(expected)) as task:
            task.update(len(done))
            engine = load() if batches else None
            for batch, some in batches.items():
                assert engine is not None  # noqa: S101 - replies are missing
                try:
                    for reply in generate(engine, some, **batch._asdict()):
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
    missing = [name for name, number in expected if (name, number) not in done]
    if missing:
        raise DataError(f"{path}: expected a reply to every prompt, {len(missing)} are missing ({missing[0]!r} …)")
    return [done[key] for key in expected]


def drop_failed(path: Path, expected: Mapping[ReplyKey, Expected]) -> set[ReplyKey]:
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
