"""Answers of the OpenAI protocol: parsing, and the reply or the log-probabilities in one."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ValidationError

from derta.chat import ChatFormat, answer_offset
from derta.engines.scheduler import RetryableError
from derta.engines.token_io import STOP_REASONS, Row, check_scores, reply_from_tokens
from derta.errors import EngineError
from derta.records import Prompt, Reply


class LogProbs(BaseModel):
    """Log-probability of each token; None for the first one, which has no context."""

    token_logprobs: list[float | None]


class TextChoice(BaseModel):
    """Choice of a completions answer; only vLLM returns `token_ids` and `stop_reason`."""

    index: int = 0
    text: str
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None
    logprobs: LogProbs | None = None


class _Content(BaseModel):
    content: str | None = None
    refusal: str | None = None


class ChatChoice(BaseModel):
    """Choice of a chat answer; a server may return a refusal in addition to the content."""

    index: int = 0
    message: _Content
    finish_reason: str


C = TypeVar("C", TextChoice, ChatChoice)


def _in_order(choices: list[C]) -> list[C]:
    """Sort the choices by index: servers may return them in order of completion. A missing index is 0."""
    if not any(choice.index == 0 for choice in choices):
        raise ValueError(f"expected a choice of index 0, got {[choice.index for choice in choices]}")
    return sorted(choices, key=lambda choice: choice.index)


class TextAnswer(BaseModel):
    """Answer to a completions request."""

    choices: Annotated[list[TextChoice], AfterValidator(_in_order)]
    usage: Any = None


class ChatAnswer(BaseModel):
    """Answer to a chat request."""

    choices: Annotated[list[ChatChoice], AfterValidator(_in_order)]
    usage: Any = None


A = TypeVar("A", TextAnswer, ChatAnswer)


def parse_answer(kind: type[A], raw: bytes) -> A:
    """Parse the body of an answer.

    Raises:
        RetryableError: The body is not valid JSON (it may be truncated), or has no choice of index 0.
    """
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise RetryableError(f"the server's answer is not a completion ({field or 'body'}: {first['msg']})") from error


def reply_from_answer(prompt: Prompt, answer: TextAnswer | ChatAnswer, *, chat: ChatFormat | None) -> Reply:
    """Return the reply in an answer; without content it is empty, or unanswered if a content filter removed it."""
    choice = answer.choices[0]
    if choice.finish_reason == "content_filter" and not _content(choice).strip():
        return Reply(prompt_id=prompt.id, text="", unanswered="filtered", reason="finish_reason content_filter")
    if isinstance(choice, ChatChoice):
        text = _content(choice)
    elif choice.token_ids is not None and chat is not None:
        return reply_from_tokens(
            chat,
            prompt,
            choice.token_ids,
            finish_reason=choice.finish_reason,
            stop_reason=choice.stop_reason,
            prompt_tokens=_prompt_tokens(answer.usage),
        )
    else:
        text = choice.text
    return Reply(
        prompt_id=prompt.id,
        text=text,
        prompt_tokens=_prompt_tokens(answer.usage),
        stop_reason=STOP_REASONS.get(choice.finish_reason, "unknown"),
        answer_at=None if chat is None else answer_offset(chat, prompt, text),
    )


def _prompt_tokens(usage: object) -> int | None:
    """Return the prompt's tokens in a server's usage; None if it has none, because servers differ in this part."""
    tokens = cast("dict[str, Any]", usage).get("prompt_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) and tokens >= 0 else None


def _content(choice: TextChoice | ChatChoice) -> str:
    if isinstance(choice, ChatChoice):
        return choice.message.content or choice.message.refusal or ""
    return choice.text


def scores_from_answer(row: Row, answer: TextAnswer) -> list[float]:
    """Return the log-probabilities of a row's scored tokens, without the token generated after the row.

    Raises:
        EngineError: The server returned no log-probabilities, NaN, or tokenized the prompt differently.
    """
    logprobs = answer.choices[0].logprobs
    if logprobs is None:
        raise EngineError(
            "log-likelihoods: expected `logprobs` of an echoed prompt, the server returned none; use a server that "
            "supports them (`vllm serve`), or --engine hf"
        )
    values = logprobs.token_logprobs
    if len(values) not in {len(row.token_ids), len(row.token_ids) + 1}:
        raise EngineError(
            f"log-likelihoods: expected {len(row.token_ids)} tokens and one more, the server counts {len(values)}; "
            "pass the tokenizer of the served model"
        )
    return check_scores(values[row.start : len(row.token_ids)], source="the server")
