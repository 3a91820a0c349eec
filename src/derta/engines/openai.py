"""Engine for one or more OpenAI-compatible servers."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, get_args

from derta.chat import ChatFormat, chat_format, refusal_tokens
from derta.config import RowConfig
from derta.engines.endpoints import DEFAULT_ENDPOINT, KEY_VARIABLE, parse_host
from derta.engines.openai_protocol import (
    Call,
    ChatAnswer,
    Send,
    TextAnswer,
    generation_call,
    likelihood_text,
    reply_from_answer,
    sampled_call,
    score_call,
    scores_from_answer,
)
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
from derta.errors import EngineError, install_advice
from derta.protocols import UnansweredError
from derta.records import REFUSAL_WORDS, Message, Prompt, Reply
from derta.sampling import GREEDY, Sampling

if TYPE_CHECKING:
    pass


HELD = 100
"""Number of unanswered prompts before the first answer at which a stream stops."""
PROBE_SECONDS = 60.0
"""Limit of the request that tests a server before long work."""


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


def check_answers(engine: ApiEngine, *, raw: bool = False) -> None:
    """Send one short request, so that a server, key or model that does not work is an error before long work.

    Args:
        engine: The engine; each of its servers may answer.
        raw: Request a completion of a text, instead of a chat answer.

    Raises:
        EngineError: no answer within `PROBE_SECONDS`, or all requests would fail. A server that answers, but rejects
            this request, is no error.
    """
    messages = None if raw else (Message(role="user", content="Hello."),)
    mode, text = ("raw", "Hello.") if raw else ("chat", None)
    prompt = Prompt(id="probe", request_id="probe", attack="direct", mode=mode, messages=messages, text=text)
    limits = replace(engine.limits, attempts=3, busy_attempts=6, longest_wait=8.0, patience=PROBE_SECONDS)
    probe = replace(engine, limits=limits, timeout=min(engine.timeout, PROBE_SECONDS))
    try:
        list(probe.generate([prompt], max_new_tokens=1))
    except UnansweredError as error:
        if error.replies[0].unanswered == "failed":
            raise EngineError(
                f"{error.replies[0].reason}; check the server, then run the same command again"
            ) from error


def load(
    model: str | Path,
    *,
    endpoints: str | Sequence[str] = DEFAULT_ENDPOINT,
    send: Send | None = None,
    tokenizer: str | Path | None = None,
    template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
    template_date: str = RowConfig.template_date,
    thinking: bool = True,
    refusal_words: Sequence[str] = REFUSAL_WORDS,
    body: Mapping[str, Any] | None = None,
    api_key_env: str | None = None,
    concurrency: int = 16,
    requests_per_minute: float | None = None,
    attempts: int = 8,
    timeout: float = 600.0,
    patience: float = 300.0,
    trust_remote_code: bool = False,
) -> ApiEngine:
    """Configure an engine for a served model; no request is sent.

    Args:
        model: Name of the model on the servers.
        endpoints: Addresses of the servers (`http://127.0.0.1:8000/v1`); requests are balanced over them.
        send: `messages`, `text` or `ids` (see `Send`); by default `ids` with a tokenizer, else `messages`.
        tokenizer: Folder or hub id of the served model, to render prompts locally.
        template: Chat template: `auto`, `paper`, `paper_eval` or a Jinja file.
        template_kwargs: Additional variables of the template.
        template_date: The date of a template that writes today's, as YYYY-MM-DD.
        thinking: Whether replies of a model that thinks begin with its thought, or after an empty one.
        refusal_words: Words that `refusal_probability` counts as the start of a refusal.
        body: Fields to add to each request; null removes a field.
        api_key_env: Environment variable with the API key; by default OPENAI_API_KEY, if it is set.
        concurrency: Maximum number of requests in flight, over all endpoints.
        requests_per_minute: Rate limit over all endpoints; None is no limit.
        attempts: Maximum number of failed attempts per prompt.
        timeout: Seconds until a request times out.
        patience: Seconds without an answer from any server until the run stops.
        trust_remote_code: Run code that the tokenizer contains.

    Raises:
        EngineError: Invalid setting, missing API key, or the package `openai` is missing.
        ModelError: The tokenizer does not exist.
    """
    if find_spec("openai") is None:
        raise EngineError(f"engine api: expected the package openai, which is not installed; {install_advice('api')}")
    addresses = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints)
    if not addresses:
        raise EngineError("endpoints: expected at least one address, got none")
    for address in addresses:
        parse_host(address)
    _check_numbers(concurrency=concurrency, attempts=attempts, timeout=timeout, requests_per_minute=requests_per_minute)
    _check_numbers(patience=patience)
    chosen = send or ("messages" if tokenizer is None else "ids")
    if chosen not in get_args(Send):
        raise EngineError(f"send: expected one of {', '.join(get_args(Send))}, got {chosen!r}")
    if (chosen == "messages") != (tokenizer is None):
        needed = "no tokenizer, as the server renders them" if chosen == "messages" else "the served model's tokenizer"
        raise EngineError(f"send={chosen}: expected {needed}; got tokenizer={tokenizer!s}")
    if tokenizer is None and (template != "auto" or template_kwargs):
        raise EngineError(
            "template: expected a tokenizer to render with, got none; without one the server uses its template"
        )
    if api_key_env is not None and not os.environ.get(api_key_env):
        raise EngineError(f"api_key_env: expected a key in the environment variable {api_key_env!r}, got none; set it")
    chat = None
    if tokenizer is not None:
        from derta.loading import load_tokenizer

        loaded = load_tokenizer(str(tokenizer), trust_remote_code=trust_remote_code)
        chat = chat_format(
            loaded, template=template, template_kwargs=template_kwargs, date=template_date, thinking=thinking
        )
    limits = Limits(
        concurrency=concurrency, requests_per_minute=requests_per_minute, attempts=attempts, patience=patience
    )
    return ApiEngine(
        model=str(model),
        endpoints=addresses,
        send=chosen,
        chat=chat,
        refusal_words=tuple(refusal_words),
        body=dict(body or {}),
        key_variable=api_key_env or KEY_VARIABLE,
        timeout=timeout,
        limits=limits,
    )


def _check_numbers(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and number <= 0:
            raise EngineError(f"{name}: expected a number above 0, got {number}")
