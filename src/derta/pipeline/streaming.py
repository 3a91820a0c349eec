"""Generation of replies to a file of any length: prompts are read as they are needed, replies are written in shards.

In memory are the prompts in flight, one shard of prompts, and 8 bytes for each prompt of the file, while its ids are
checked. The replies to prompt number n are in shard n // rows, so that a stopped command resumes shard by shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from derta.errors import RunError
from derta.files import read_records
from derta.formats.shards import REPLIES, blocks, drop_torn_lines, shard_path, shard_paths, writing_shards
from derta.pipeline.generate import expected_replies, generate
from derta.pipeline.judge import engine_loader
from derta.pipeline.prompt_file import check_prompt_file
from derta.pipeline.resuming import Expected, read_results
from derta.pipeline.shard_writer import ExpectedOf, Sample, ShardWriter
from derta.protocols import Display, Engine, StreamingEngine, UnansweredError
from derta.records import Prompt, Reply, ReplyKey
from derta.sampling import GREEDY, Sampling

if TYPE_CHECKING:
    from derta.config import EngineConfig

BATCH = 1024
"""Number of prompts in one call of an engine that is no `StreamingEngine`."""


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
        writer = ShardWriter(self.out, self.expected_of)
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
