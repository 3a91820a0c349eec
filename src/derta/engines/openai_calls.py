"""Requests of the OpenAI protocol: the body for a reply, for a sample of it, and for log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from derta.chat import ChatFormat, continuation_head, encode_prompt, prompt_text
from derta.engines.token_io import Row
from derta.errors import ModelError
from derta.records import Prompt
from derta.sampling import Sampling

Send = Literal["messages", "text", "ids"]
"""Format of a prompt: messages that the server renders, text rendered locally, or the token ids of that text."""


class Call(NamedTuple):
    """Request to one of the protocol's two routes: the body without the model name."""

    route: Literal["chat", "completions"]
    body: dict[str, Any]


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
