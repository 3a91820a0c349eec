"""OpenAI protocol: request bodies, parsing of answers, and errors by HTTP status. This module sends no request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ValidationError

from derta.chat import ChatFormat, answer_offset, continuation_head, encode_prompt, prompt_text
from derta.engines.scheduler import RejectedError, RetryableError
from derta.engines.token_io import STOP_REASONS, Row, check_scores, reply_from_tokens
from derta.errors import EngineError, ModelError
from derta.records import Prompt, Reply
from derta.sampling import Sampling

if TYPE_CHECKING:
    from openai import APIStatusError

_FILTERED = re.compile(r"content.?(?:filter|policy)|moderation|flagged|responsible.?ai", re.I)
"""Words of the content filters of hosted models in an error: Azure OpenAI, OpenAI, OpenRouter."""

LONGEST_WAIT = 600.0
"""Maximum seconds to wait on a server's `Retry-After`; with a longer wait the run stops and can be resumed later."""

Send = Literal["messages", "text", "ids"]
"""Format of a prompt: messages that the server renders, text rendered locally, or the token ids of that text."""


class Call(NamedTuple):
    """Request to one of the protocol's two routes: the body without the model name."""

    route: Literal["chat", "completions"]
    body: dict[str, Any]


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


def server_text(chat: ChatFormat, text: str, token_ids: Sequence[int]) -> str:
    """Return the text that a server tokenizes to exactly these ids, if its tokenizer adds a BOS.

    Raises:
        ModelError: There is no such text; use `send=ids`.
    """
    bare = text.removeprefix(str(chat.tokenizer.bos_token))
    # trailing white space of a template may belong to the first token of the answer
    for candidate in dict.fromkeys((text, bare, text.rstrip(), bare.rstrip())):
        if chat.tokenizer.encode(candidate) == list(token_ids):
            return candidate
    raise ModelError(
        f"expected a text that the server tokenizes to the prompt's tokens, got none for {text[:40]!r}…; "
        "use a server that takes token ids, with send=ids"
    )


def generation_call(
    prompt: Prompt, *, send: Send, chat: ChatFormat | None, max_new_tokens: int, extra: Mapping[str, Any]
) -> Call:
    """Return the request for a greedy continuation.

    A raw prompt always uses the completions route. With `messages`, a prefill is sent as a final assistant message that
    vLLM and SGLang continue (`continue_final_message`). With `ids`, the body holds fields of vLLM and SGLang that
    request special tokens in the text and the generated token ids.

    Args:
        prompt: The prompt.
        send: Format of the prompt.
        chat: Chat format that renders the prompt; None with `messages`.
        max_new_tokens: Maximum number of generated tokens.
        extra: Fields to add to the body or to replace in it; None removes a field.

    Raises:
        ModelError: The prompt is empty, or no text has its tokens.
    """
    body: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": 0.0}
    if chat is None or send == "messages":
        if prompt.mode == "raw":
            return Call("completions", _merge_body(body | {"prompt": prompt.text}, extra))
        messages = [message.model_dump(mode="json") for message in prompt.messages or ()]
        if prompt.prefill_in == "thought":
            raise ModelError(f"prompt {prompt.id!r} has a prefill in the thought, which needs send=ids or send=text")
        if prompt.prefill:
            messages.append({"role": "assistant", "content": prompt.prefill})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if prompt.tools:  # the model reads the definitions, and its reply is text
            body |= {"tools": list(prompt.tools), "tool_choice": "none"}
        return Call("chat", _merge_body(body | {"messages": messages}, extra))
    token_ids = encode_prompt(chat, prompt)
    if not token_ids:
        raise ModelError(f"prompt {prompt.id!r} has no token that this tokenizer knows; remove it")
    if send == "text":
        return Call(
            "completions",
            _merge_body(body | {"prompt": server_text(chat, prompt_text(chat, prompt).text, token_ids)}, extra),
        )
    body |= {
        "prompt": token_ids,
        "stop_token_ids": sorted(chat.stop_ids),
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "return_token_ids": True,
        "repetition_penalty": 1.0,  # the default of vLLM is the value in the model's generation config
    }
    return Call("completions", _merge_body(body, extra))


def sampled_call(
    call: Call, prompt_id: str, sample: int, *, sampling: Sampling, send: Send, extra: Mapping[str, Any]
) -> Call:
    """Return the request for a sample of the reply to a prompt, made of its greedy request.

    vLLM and SGLang take `top_k` and `min_p` from the model's generation config; with `ids`, whose body has fields of
    these servers, they are switched off, so that replies are drawn from the whole distribution or its nucleus.

    Args:
        call: The request for the greedy continuation, or for the only reply.
        prompt_id: Id of the prompt.
        sample: Number of the sample.
        sampling: Temperature, nucleus and seed.
        send: Format of the prompt.
        extra: Fields that replace those of the body, as in `generation_call`.
    """
    if sampling.is_greedy:
        return call
    seed = sampling.reply_seed(prompt_id, sample)
    body = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}
    if send == "ids" and call.route == "completions":
        body |= {"top_k": -1, "min_p": 0.0}
    return call._replace(body=call.body | {key: value for key, value in body.items() if key not in extra})


def score_call(row: Row, *, text: str | None, extra: Mapping[str, Any]) -> Call:
    """Return the request for the log-probabilities of a row's tokens, sent as `text`, or as ids if `text` is None."""
    body = {"prompt": row.token_ids if text is None else text, "echo": True, "logprobs": 1, "max_tokens": 1}
    return Call("completions", _merge_body(body | {"temperature": 0.0}, extra))


def _merge_body(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**body, **extra}.items() if value is not None}


def likelihood_text(chat: ChatFormat, prompt: Prompt, continuation: str, row: Row) -> str:
    """Return a prompt with its continuation as one text that the server tokenizes to the row's ids."""
    return server_text(chat, continuation_head(chat, prompt).text + continuation, row.token_ids)


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


def error_from_status(
    error: APIStatusError, *, where: str, secret: str
) -> RetryableError | RejectedError | EngineError:
    """Return the error for an HTTP status; its message quotes the server without the key.

    A 403 for the content of a prompt is told from one for the key by the words of content filters.
    """
    status = error.status_code
    if 300 <= status < 400:
        target = error.response.headers.get("location", "no address")
        return EngineError(
            f"{where}: redirects to {target.replace(secret, '…'):.200} ({status}), which is not followed; pass the new "
            "address if you trust it"
        )
    quoted = f"{status} " + " ".join(error.response.text.replace(secret, "…").split())[:300]
    filtered = _FILTERED.search(error.response.text) is not None
    if status == 401 or (status == 403 and not filtered):
        return EngineError(f"{where}: the server does not accept the key ({status}); check the variable that holds it")
    if status in {404, 405} or error.code == "insufficient_quota":
        return EngineError(f"{where}: {quoted}; check the address (most end in /v1), the model's name and the account")
    if status == 429 or (not filtered and (status in {408, 409, 425} or status >= 500)):
        after = retry_after(error.response.headers, now=datetime.now(UTC))
        if after > LONGEST_WAIT:
            return EngineError(
                f"{where}: requests a wait of {after:.0f} s ({status}); run the same command again after that"
            )
        return RetryableError(f"{where}: {quoted}", after=after, busy=after > 0 or status in {429, 503})
    hint = "" if filtered else "; see docs/serving.md for what each server supports"
    return RejectedError(f"{where}: refused: {quoted}{hint}", filtered=filtered)


def retry_after(headers: Mapping[str, str], *, now: datetime) -> float:
    """Parse a `Retry-After` header (seconds or a date) into seconds; return 0 without one.

    >>> retry_after({"retry-after": "7"}, now=datetime.now(UTC)), retry_after({}, now=datetime.now(UTC))
    (7.0, 0.0)

    Source: RFC 9110, 10.2.3.
    """
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return max(0.0, seconds) if isfinite(seconds) else 0.0
