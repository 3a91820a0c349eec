"""Generation of replies to a file of any length: prompts are read as they are needed, replies are written in shards.

In memory are the prompts in flight, one shard of prompts, and 8 bytes for each prompt of the file, while its ids are
checked. The replies to prompt number n are in shard n // rows, so that a stopped command resumes shard by shard.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from derta.errors import DataError, EngineError, RunError
from derta.files import Appender, read_records
from derta.formats.shards import REPLIES, blocks, drop_torn_lines, shard_path, shard_paths, writing_shards
from derta.pipeline.generate import check_decoding, drop_failed, expected_replies, generate, read_prompts
from derta.pipeline.judge import engine_loader
from derta.pipeline.resuming import Expected, read_results
from derta.protocols import Display, Engine, StreamingEngine, UnansweredError
from derta.records import Prompt, Reply, ReplyKey
from derta.sampling import GREEDY, Sampling

if TYPE_CHECKING:
    from derta.config import EngineConfig

BATCH = 1024
"""Number of prompts in one call of an engine that is no `StreamingEngine`."""
Sample = tuple[Prompt, int]
"""A prompt and the number of a sample of its reply, 0 with greedy decoding."""
ExpectedOf = Callable[[Sequence[Prompt]], dict[ReplyKey, Expected]]


class StreamCounts(NamedTuple):
    """Number of replies, of those that are no answer, and of shards."""

    replies: int
    unanswered: int
    shards: int


def generate_shards(
    path: Path,
    *,
    model: EngineConfig,
    out: Path,
    max_new_tokens: int,
    rows: int,
    sampling: Sampling = GREEDY,
    display: Display = Display(),
) -> StreamCounts:
    """Generate replies to a file of prompts in shards; replies that exist in `out` are not generated again.

    Args:
        path: The file of prompts; it is read twice: once to check it.
        model: The engine. A served one has at most four times its concurrency of prompts in flight.
        out: The folder of the shards.
        max_new_tokens: The limit of each reply.
        rows: The number of prompts of a shard.
        sampling: How the replies are sampled; a later call may have more samples.
        display: Shows progress.

    Raises:
        DataError: Two prompts share an id.
        RunError: The folder holds replies to other prompts, or of another producer or number of rows, or another
            process writes it.
        EngineError: An unknown engine or setting, or an option of a prompt that the engine does not support.
        UnansweredError: All attempts for a prompt failed, for the first time: the next call tries it once more. Or the
            server answered none of the first prompts.
    """
    load = engine_loader(model)
    producer = load.producer()

    def expected_of(prompts: Sequence[Prompt]) -> dict[ReplyKey, Expected]:
        ids = [prompt.id for prompt in prompts]
        limits, samplings = dict.fromkeys(ids, max_new_tokens), dict.fromkeys(ids, sampling)
        return expected_replies(prompts, producer=producer, max_new_tokens=limits, samplings=samplings)

    prompts = check_prompt_file(path, engine=model.engine)
    total = prompts * len(sampling.numbers)
    stream = _Stream(path, out, rows, expected_of, total)
    with writing_shards(out, rows):
        drop_torn_lines(out, REPLIES)
        found = stream.survey()
        unanswered = found.unanswered
        if found.answered + found.unanswered < total:
            settings = Decoder(load(), max_new_tokens, sampling)
            unanswered += stream.ask(settings, found, display=display)
    if unanswered:
        display.logger.warning(
            "%s: %d of %d prompts are unanswered; they count as unanswered in every rate", out, unanswered, total
        )
    return StreamCounts(total, unanswered, -(-prompts // rows))


def check_prompt_file(path: Path, *, engine: str) -> int:
    """Read a file of prompts and return their number; 8 bytes for each are in memory, a hash of its id.

    Raises:
        DataError: Two prompts share an id, a line is no prompt, or there is none.
        EngineError: The engine does not support an option of a prompt.
    """
    import numpy as np

    hashes = array("Q")
    for prompt in read_prompts(path):
        check_decoding(engine, [prompt])
        hashes.append(_hash_id(prompt.id))
    if not hashes:
        raise DataError(f"{path}: expected prompts, got none")
    ordered = np.sort(np.frombuffer(hashes, dtype=np.uint64))
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    seen: set[str] = set()  # of the ids that share a hash
    for prompt in read_records(path, Prompt) if repeated else ():
        if prompt.id in seen:
            raise DataError(f"{path}: expected unique ids, got {prompt.id!r} twice; rename or remove one of the rows")
        if _hash_id(prompt.id) in repeated:
            seen.add(prompt.id)
    return len(hashes)


def _hash_id(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


class Decoder(NamedTuple):
    """An engine with the settings of its replies."""

    engine: Engine
    max_new_tokens: int
    sampling: Sampling = GREEDY

    def replies(self, samples: Iterable[Sample]) -> Generator[Reply]:
        """Yield a reply for each sample, from a stream if the engine has one, and else batch by batch."""
        if isinstance(self.engine, StreamingEngine):
            yield from self.engine.stream(samples, max_new_tokens=self.max_new_tokens, sampling=self.sampling)
            return
        for batch in blocks(samples, BATCH):
            for number in sorted({number for _, number in batch}):
                prompts = [prompt for prompt, one in batch if one == number]
                only = GREEDY if self.sampling.is_greedy else self.sampling.only((number,))
                yield from generate(self.engine, prompts, max_new_tokens=self.max_new_tokens, sampling=only)


class _Found(NamedTuple):
    """Numbers of replies that exist; failed attempts are not counted, as they are made again."""

    answered: int
    unanswered: int


@dataclass(frozen=True, slots=True)
class _Stream:
    """A file of prompts, the folder of their replies, and the provenance that these must have."""

    path: Path
    out: Path
    rows: int
    expected_of: ExpectedOf
    total: int

    def blocks(self) -> Iterator[list[Prompt]]:
        return blocks(read_records(self.path, Prompt), self.rows)

    def survey(self) -> _Found:
        """Check the replies that exist before the first request."""
        paths = shard_paths(self.out, REPLIES)
        answered, unanswered, last = 0, 0, len(paths)
        for number, block in enumerate(self.blocks() if paths else ()):
            shard = shard_path(self.out, REPLIES, number)
            if not shard.exists():
                continue
            last -= 1
            for reply in read_results(shard, Reply, self.expected_of(block)).values():
                answered += reply.unanswered is None
                unanswered += reply.unanswered in ("filtered", "rejected")
            if last == 0:
                break
        if last:
            raise RunError(f"{paths[-1]}: cannot resume: {self.path} has no prompts for it; choose another --out")
        return _Found(answered, unanswered)

    def ask(self, decoder: Decoder, found: _Found, *, display: Display) -> int:
        """Ask for the missing replies and return the number of those that are no answers."""
        writer = _Writer(self.out, self.expected_of)
        replies = decoder.replies(writer.missing(self.blocks()))
        counts = Counter[str | None]()
        failures: list[Reply] = []  # the first one
        done = found.answered + found.unanswered
        with display.progress.task("replies", total=self.total) as task, closing(writer), closing(replies):
            task.update(done)
            for reply in _recorded(replies, has_answer=found.answered > 0):
                retried = writer.add(reply)
                counts["failed again" if reply.unanswered == "failed" and retried else reply.unanswered] += 1
                failures = failures or [reply][: counts["failed"]]
                task.update(done + counts.total())
        if failures:
            raise UnansweredError(
                f"{counts['failed']} of {self.total} prompts have no reply, first {failures[0].prompt_id!r}: "
                f"{failures[0].reason}; run the same command again to generate the missing replies",
                failures,
            )
        writer.check()
        return counts.total() - counts[None]


def _recorded(replies: Iterator[Reply], *, has_answer: bool) -> Iterator[Reply]:
    """Yield the replies; where an earlier call had an answer, the settings are right, and all are recorded."""
    try:
        yield from replies
    except UnansweredError as error:
        if not has_answer:
            raise
        yield from error.replies


@dataclass(slots=True)
class _Shard:
    file: Appender
    waiting: int = 0
    is_drawn: bool = False

    def close_if_done(self) -> None:
        if self.is_drawn and self.waiting == 0:
            self.file.close()


class _Waiting(NamedTuple):
    shard: _Shard
    expected: Expected
    retried: bool


@dataclass(slots=True)
class _Writer:
    """Writer of each reply to the shard of its prompt; a shard is open while replies to its prompts are missing.

    The prompts are drawn in the thread of the engine's requests, and replies are added in the caller's.
    """

    out: Path
    expected_of: ExpectedOf
    waiting: dict[ReplyKey, _Waiting] = field(default_factory=dict[ReplyKey, _Waiting])
    lock: Lock = field(default_factory=Lock)
    drawn: _Shard | None = None  # the last one

    def missing(self, prompts: Iterable[list[Prompt]]) -> Iterator[Sample]:
        """Yield the samples without a reply in their shard, shard by shard."""
        for number, block in enumerate(prompts):
            path, failed, done = shard_path(self.out, REPLIES, number), set[ReplyKey](), set[ReplyKey]()
            if path.exists():
                expected = self.expected_of(block)
                failed = drop_failed(path, expected)
                done = set(read_results(path, Reply, expected))
                if len(done) == len(expected):
                    continue
            self.drawn = shard = _Shard(Appender(path))
            for prompt in block:
                for key, expected in self.expected_of([prompt]).items():
                    if key in done:
                        continue
                    with self.lock:
                        self.waiting[key] = _Waiting(shard, expected, key in failed)
                        shard.waiting += 1
                    yield prompt, key[1]
            with self.lock:
                shard.is_drawn = True
                shard.close_if_done()

    def add(self, reply: Reply) -> bool:
        """Write a reply and return whether its prompt had failed in an earlier call.

        Raises:
            EngineError: No such reply is missing.
        """
        with self.lock:
            waiting = self.waiting.pop(reply.key, None)
        if waiting is None:
            raise EngineError(
                f"expected one reply to each prompt, got another to {reply.prompt_id!r}: a fault of the engine"
            )
        waiting.shard.file.add(waiting.expected.stamp(reply))
        with self.lock:
            waiting.shard.waiting -= 1
            waiting.shard.close_if_done()
        return waiting.retried

    def close(self) -> None:
        """Close the shards that miss replies."""
        with self.lock:
            for shard in [one.shard for one in self.waiting.values()] + ([self.drawn] if self.drawn else []):
                shard.file.close()

    def check(self) -> None:
        """Refuse the end of an engine's replies before each prompt has one.

        Raises:
            DataError: Names the first prompt without a reply.
        """
        for prompt_id, _ in self.waiting:
            raise DataError(
                f"{self.out}: expected a reply to every prompt, {len(self.waiting)} are missing ({prompt_id!r} …)"
            )
