"""Engine for one or more OpenAI-compatible servers."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from random import Random
from typing import Any

from derta.chat import ChatFormat, refusal_tokens
from derta.engines.endpoints import KEY_VARIABLE
from derta.engines.openai_answers import ChatAnswer, TextAnswer, reply_from_answer, scores_from_answer
from derta.engines.openai_calls import Call, Send, generation_call, likelihood_text, sampled_call, score_call
from derta.engines.openai_request import request
from derta.engines.scheduler import Limits, Outcome, in_background, schedule
from derta.engines.token_io import (
    Row,
    check_prompts,
    encode_turns,
    likelihood_row,
    refusal_probabilities,
    refusal_rows,
)
from derta.errors import EngineError
from derta.protocols import UnansweredError
from derta.records import REFUSAL_WORDS, Prompt, Reply
from derta.sampling import GREEDY, Sampling

HELD = 100
"""Number of unanswered prompts before the first answer at which a stream stops."""


@dataclass(frozen=True, slots=True)
class ApiEngine:
    """Model on a server. The API key is read from the environment at each call and is not stored."""

    model: str
    endpoints: tuple[str, ...]
    send: Send = "messages"
    chat: ChatFormat | None = None
    refusal_words: tuple[str, ...] = REFUSAL_WORDS
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    key_variable: str = KEY_VARIABLE
    timeout: float = 600.0
    limits: Limits = field(default_factory=Limits)

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> Iterator[Reply]:
        """Yield replies in order of completion; each sample is a request with its own seed.

        A prompt that a content filter stops, or that the server rejects although it has answered another one, has an
        unanswered reply (see `Reply.unanswered`).

        Raises:
            ModelError: Before any request, if a prompt cannot be sent.
            UnansweredError: After all other replies, if all attempts for a prompt failed, or the server answered none
                and rejected some. To resume, generate the missing replies.
            EngineError: No server can be reached, or all requests would fail.
        """
        check_prompts(prompts, max_new_tokens=max_new_tokens)
        calls = [
            generation_call(prompt, send=self.send, chat=self.chat, max_new_tokens=max_new_tokens, extra=self.body)
            for prompt in prompts
        ]
        samples = [(prompt, number) for prompt in prompts for number in sampling.numbers]
        sampled = [
            sampled_call(call, prompt.id, number, sampling=sampling, send=self.send, extra=self.body)
            for prompt, call in zip(prompts, calls, strict=True)
            for number in sampling.numbers
        ]
        return self._replies(samples, sampled, sampling)

    def stream(
        self, samples: Iterable[tuple[Prompt, int]], *, max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> Iterator[Reply]:
        """Yield replies in order of completion, in memory that does not grow with the number of prompts.

        A sample, a prompt with a number, is drawn in a background thread when its request may be sent: at most four
        times the concurrency are drawn before the caller takes their replies. Every sample has a reply, also one whose
        attempts all failed.

        Args:
            samples: Prompts with the number of the sample, 0 for greedy replies.
            max_new_tokens: Maximum number of tokens of a reply.
            sampling: Temperature, nucleus and seed; its number of samples is not used.

        Raises:
            ModelError: A prompt cannot be sent; the replies in flight are lost.
            UnansweredError: The server has answered none of the first `HELD` prompts, or of all.
            EngineError: No server can be reached, or all requests would fail.
        """
        check_prompts([], max_new_tokens=max_new_tokens)
        drawn: dict[int, tuple[Prompt, int]] = {}

        def calls() -> Iterator[Call]:
            for index, (prompt, number) in enumerate(samples):
                check_prompts([prompt], max_new_tokens=max_new_tokens)
                drawn[index] = prompt, number
                call = generation_call(
                    prompt, send=self.send, chat=self.chat, max_new_tokens=max_new_tokens, extra=self.body
                )
                yield sampled_call(call, prompt.id, number, sampling=sampling, send=self.send, extra=self.body)

        def reply(outcome: Outcome[TextAnswer | ChatAnswer]) -> Reply:
            return self._reply_of(*drawn.pop(outcome.job), outcome, sampling)

        outcomes = self._query(calls(), has_room=lambda: len(drawn) < 4 * self.limits.concurrency)
        return _hold_unanswered(outcomes, reply)

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return the log-probability (nats) of each token of each continuation, from an echo of the prompt.

        Raises:
            EngineError: The engine has no tokenizer, or the server returns no log-probabilities of prompts.
        """
        chat = self._require_tokenizer("log-likelihoods", send=("text", "ids"))
        rows = [likelihood_row(turn) for turn in encode_turns(chat, prompts, continuations)]
        texts = (
            [likelihood_text(chat, *each) for each in zip(prompts, continuations, rows, strict=True)]
            if self.send == "text"
            else [None] * len(rows)
        )
        return self._scores(rows, texts)

    def refusal_probability(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return the probability of a refusal word at each token of each continuation, and after the last.

        Each position and form of a word needs a separate request, as servers report only the most likely tokens.

        Raises:
            EngineError: `send` is not `ids`, or the server returns no log-probabilities of prompts.
            ModelError: The tokenizer cannot encode a refusal word.
        """
        chat = self._require_tokenizer("refusal probabilities", send=("ids",))
        forms = refusal_tokens(chat, self.refusal_words).forms
        groups = [refusal_rows(turn, forms) for turn in encode_turns(chat, prompts, continuations)]
        rows = [row for group in groups for row in group]
        scores = iter(self._scores(rows, [None] * len(rows)))
        return [refusal_probabilities([next(scores) for _ in group], len(forms)) for group in groups]

    def _require_tokenizer(self, output: str, *, send: tuple[Send, ...]) -> ChatFormat:
        if self.chat is None or self.send not in send:
            raise EngineError(
                f"{output}: expected a tokenizer and send={' or '.join(send)}, got send={self.send}; "
                "pass the served model's folder as tokenizer, or use --engine hf"
            )
        return self.chat

    def _replies(
        self, samples: Sequence[tuple[Prompt, int]], calls: Sequence[Call], sampling: Sampling
    ) -> Iterator[Reply]:
        failed: list[Reply] = []
        rejected: list[Reply] = []  # until the first answer: if all are rejected, the settings are at fault
        has_answer = False
        for outcome in self._query(calls):
            reply = self._reply_of(*samples[outcome.job], outcome, sampling)
            has_answer |= reply.unanswered is None
            if reply.unanswered in (None, "filtered"):
                yield reply
            else:
                (failed if reply.unanswered == "failed" else rejected).append(reply)
            if has_answer:
                yield from rejected
                rejected.clear()
        if missing := [*failed, *rejected]:
            raise UnansweredError(
                f"{len(missing)} of {len(samples)} prompts have no reply, first {missing[0].prompt_id!r}: "
                f"{missing[0].reason}; run the same command again to generate the missing replies",
                missing,
            )

    def _scores(self, rows: Sequence[Row], texts: Sequence[str | None]) -> list[list[float]]:
        scored = [index for index, row in enumerate(rows) if row.start < len(row.token_ids)]
        scores: list[list[float]] = [[] for _ in rows]
        calls = [score_call(rows[index], text=texts[index], extra=self.body) for index in scored]
        for place, answer, failure, _ in self._query(calls):
            if not isinstance(answer, TextAnswer):
                raise EngineError(
                    f"log-likelihoods: the server returned none ({failure}); try again, or use --engine hf"
                )
            scores[scored[place]] = scores_from_answer(rows[scored[place]], answer)
        return scores

    def _reply_of(
        self, prompt: Prompt, number: int, outcome: Outcome[TextAnswer | ChatAnswer], sampling: Sampling
    ) -> Reply:
        numbered: dict[str, Any] = {"sample": number, "seed": sampling.seed_of(prompt.id, number)}
        if outcome.value is not None:
            return reply_from_answer(prompt, outcome.value, chat=self.chat).model_copy(update=numbered)
        return Reply(prompt_id=prompt.id, text="", unanswered=outcome.cause, reason=outcome.failure, **numbered)

    def _query(
        self, calls: Iterable[Call], *, has_room: Callable[[], bool] = lambda: True
    ) -> Generator[Outcome[TextAnswer | ChatAnswer]]:
        def produce(report: Callable[[Outcome[TextAnswer | ChatAnswer]], None]) -> Awaitable[None]:
            return self._schedule(calls, report, has_room)

        return in_background(produce)

    async def _schedule(
        self,
        calls: Iterable[Call],
        report: Callable[[Outcome[TextAnswer | ChatAnswer]], None],
        has_room: Callable[[], bool],
    ) -> None:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        key = os.environ.get(self.key_variable)
        async with AsyncExitStack() as opened:
            # the scheduler retries, on another server if there is one
            # a redirect would send the prompt, and on the same host the key, to an address that the user has not named
            clients = [
                await opened.enter_async_context(
                    AsyncOpenAI(
                        base_url=url,
                        api_key=key or "none",
                        max_retries=0,
                        timeout=self.timeout,
                        http_client=DefaultAsyncHttpxClient(follow_redirects=False),
                    )
                )
                for url in self.endpoints
            ]

            async def query(server: int, call: Call) -> TextAnswer | ChatAnswer:
                return await request(clients[server], self.model, call, timeout=self.timeout)

            rng = Random()  # noqa: S311 - jitter
            await schedule(calls, query, report, servers=len(clients), limits=self.limits, rng=rng, has_room=has_room)


def _hold_unanswered(
    outcomes: Generator[Outcome[TextAnswer | ChatAnswer]], reply_of: Callable[[Outcome[TextAnswer | ChatAnswer]], Reply]
) -> Iterator[Reply]:
    """Yield the replies, the unanswered ones after the first answer: until then the settings may be at fault."""
    held: list[Reply] = []
    with closing(outcomes):
        for outcome in outcomes:
            reply = reply_of(outcome)
            if reply.unanswered is None:
                yield from held
                yield reply
                yield from map(reply_of, outcomes)
                return
            if reply.unanswered == "filtered":
                yield reply
                continue
            held.append(reply)
            if len(held) == HELD:
                break
    if held:
        raise UnansweredError(
            f"the first {len(held)} prompts have no reply, first {held[0].prompt_id!r}: {held[0].reason}; check the "
            "settings, then run the same command again",
            held,
        )
