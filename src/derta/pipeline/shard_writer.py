"""Writer of replies into shards: the replies to prompt number n are in shard n // rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from derta.errors import DataError, EngineError
from derta.files import Appender
from derta.formats.shards import REPLIES, shard_path
from derta.pipeline.generate import drop_failed
from derta.pipeline.resuming import Expected, read_results
from derta.records import Prompt, Reply, ReplyKey

Sample = tuple[Prompt, int]
"""A prompt and the number of a sample of its reply, 0 with greedy decoding."""

ExpectedOf = Callable[[Sequence[Prompt]], dict[ReplyKey, Expected]]


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
class ShardWriter:
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
