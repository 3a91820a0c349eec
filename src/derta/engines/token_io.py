"""Encoding of prompts and continuations to token ids, and decoding of generated ids with character offsets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import exp, isnan
from typing import TYPE_CHECKING, NamedTuple

from derta.chat import UNFINISHED, ChatFormat, Turn, answer_offset, decode_continuation, encode_after, encode_prompt
from derta.errors import EngineError, ModelError
from derta.records import Prompt, Reply, StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STOP_REASONS: dict[str | None, StopReason] = {"stop": "eos", "length": "length"}


class Row(NamedTuple):
    """Token ids of a row; those from index `start` are scored."""

    token_ids: list[int]
    start: int


def encode_turns(chat: ChatFormat, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Turn]:
    """Encode prompts with their continuations, split at the continuation's first token.

    Raises:
        ModelError: A prompt has no token.
    """
    turns: list[Turn] = []
    for prompt, text in zip(prompts, continuations, strict=True):
        turn = encode_after(chat, prompt, text) if text else Turn(encode_prompt(chat, prompt), [], [])
        if not turn.prompt_ids:
            raise ModelError(f"prompt {prompt.id!r} has no token that this tokenizer knows; remove it")
        turns.append(turn)
    return turns


def likelihood_row(turn: Turn) -> Row:
    """Return the row that scores a turn's response."""
    return Row(turn.prompt_ids + turn.response_ids, len(turn.prompt_ids))


def refusal_rows(turn: Turn, forms: Sequence[Sequence[int]]) -> list[Row]:
    """Return a row for each position of a response and each form of a refusal word, which replaces the rest there.

    A server reports the probabilities of the input tokens and of a few likely ones, so each refusal word is an input.

    >>> [row.token_ids for row in refusal_rows(Turn([1, 2], [7], [1]), [(5,), (6, 4)])]
    [[1, 2, 5], [1, 2, 6, 4], [1, 2, 7, 5], [1, 2, 7, 6, 4]]
    """
    heads = [turn.prompt_ids + turn.response_ids[:place] for place in range(len(turn.response_ids) + 1)]
    return [Row([*head, *form], len(head)) for head in heads for form in forms]


def check_encoded(
    chat: ChatFormat, name: str, token_ids: Sequence[int], *, new_tokens: int, positions: int | None, embeddings: int
) -> None:
    """Validate that a model can read a prompt and continue it.

    Args:
        chat: Chat format with the tokenizer.
        name: Name of the prompt in errors.
        token_ids: The encoded prompt.
        new_tokens: Number of tokens after the prompt.
        positions: Maximum number of the model's positions; None without a limit.
        embeddings: Number of the model's embeddings; the tokenizer may have tokens that the model lacks.

    Raises:
        ModelError: The prompt has no token, a token without an embedding, or more tokens than positions.
    """
    if not token_ids:
        raise ModelError(f"{name} has no token that this tokenizer knows; remove it")
    check_ids(chat, name, token_ids, embeddings=embeddings)
    if positions is not None and len(token_ids) + new_tokens > positions:
        raise ModelError(
            f"{name}: {len(token_ids)} tokens and {new_tokens} after them are more than the model's {positions} "
            "positions; shorten the prompt or lower max_new_tokens"
        )


def check_ids(chat: ChatFormat, name: str, token_ids: Sequence[int], *, embeddings: int) -> None:
    """Validate that each token has an embedding.

    Raises:
        ModelError: A token has none.
    """
    unknown = max(token_ids, default=0)
    if unknown >= embeddings:
        raise ModelError(
            f"{name}: expected tokens below the model's {embeddings} embeddings, got {unknown} "
            f"({chat.tokenizer.decode([unknown])!r}); pass the tokenizer that the model was trained with"
        )


def check_scores(log_probs: Sequence[float | None], *, source: str) -> list[float]:
    """Return log-probabilities after a check that each is a number.

    >>> check_scores([-0.5, -1.0], source="vLLM")
    [-0.5, -1.0]

    Raises:
        EngineError: one is None or NaN, as a model with NaN logits gives.
    """
    numbers = [value for value in log_probs if value is not None and not isnan(value)]
    if len(numbers) < len(log_probs):
        missing = len(log_probs) - len(numbers)
        raise EngineError(
            f"log-likelihoods: expected a number for every token, {source} returned NaN or none for {missing} of "
            f"{len(log_probs)}; load the model in bfloat16 or float32, check its weights, or use send=ids"
        )
    return numbers


def refusal_probabilities(log_probs: Sequence[Sequence[float]], num_forms: int) -> list[float]:
    """Return the probability of any refusal word at each position, from the scores of `refusal_rows`.

    >>> from math import log
    >>> scores = [[log(0.25)], [log(0.5), log(0.5)], [log(0.125)], [log(0.5), log(0.25)]]
    >>> [round(p, 6) for p in refusal_probabilities(scores, 2)]
    [0.5, 0.25]
    """
    words = [exp(sum(tokens)) for tokens in log_probs]
    # no form starts with another, so only rounding exceeds 1
    return [min(1.0, sum(words[place : place + num_forms])) for place in range(0, len(words), num_forms)]


def reply_from_tokens(
    chat: ChatFormat,
    prompt: Prompt,
    token_ids: Sequence[int],
    *,
    finish_reason: str | None,
    stop_reason: int | str | None = None,
    prompt_tokens: int | None = None,
) -> Reply:
    """Return the reply for generated token ids, without the stop token.

    Args:
        chat: Chat format with the tokenizer.
        prompt: The prompt.
        token_ids: Generated token ids.
        finish_reason: `stop` or `length`, as in vLLM and the OpenAI protocol.
        stop_reason: Stop token or stop text, if it is not the model's end-of-sequence token (vLLM).
        prompt_tokens: Number of tokens of the prompt, if it is known.
    """
    reply_ids = list(token_ids)
    ends = {*chat.stop_ids, *chat.tokenizer.all_special_ids, stop_reason}
    if finish_reason == "stop" and reply_ids and reply_ids[-1] in ends:
        reply_ids.pop()
    decoded = detokenize(chat.tokenizer, reply_ids)
    return Reply(
        prompt_id=prompt.id,
        text=decoded.text,
        stop_reason=STOP_REASONS.get(finish_reason, "unknown"),
        token_ids=tuple(reply_ids),
        token_starts=decoded.token_starts,
        prompt_tokens=prompt_tokens,
        answer_at=answer_offset(chat, prompt, decoded.text),
    )


def check_prompts(prompts: Sequence[Prompt], *, max_new_tokens: int) -> None:
    """Validate prompts for a server or for vLLM.

    Raises:
        ModelError: `max_new_tokens` is below 1, two prompts have the same id, or a prompt has banned tokens, which only
            the engine `hf` supports.
    """
    if max_new_tokens < 1:
        raise ModelError(f"max_new_tokens: expected at least 1, got {max_new_tokens}")
    ids: set[str] = set()
    for prompt in prompts:
        if prompt.id in ids:
            raise ModelError(f"prompts: expected unique ids, got {prompt.id!r} twice; remove one of them")
        ids.add(prompt.id)
        if prompt.decoding is not None:
            raise ModelError(f"prompts: {prompt.id!r} has banned tokens, which only the engine hf supports")


class DecodedText(NamedTuple):
    """Decoded text with the character offset at which each token begins."""

    text: str
    token_starts: tuple[int, ...]


def detokenize(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> DecodedText:
    """Decode generated ids to the exact text that continues the prompt.

    A leading space is preserved (sentencepiece decoders would strip it) and so are special tokens: a judge must see
    text after a special token. Tokens that share a character, such as the bytes of an emoji, have the same start.
    Invalid bytes become U+FFFD; there a start may be that of the whole sequence of invalid bytes.
    """
    text = decode_continuation(tokenizer, token_ids)
    starts: list[int] = []
    settled, settled_chars = 0, 0
    for i in range(len(token_ids)):
        piece = decode_continuation(tokenizer, token_ids[settled:i])
        shared = _shared_length(piece, text[settled_chars:])
        starts.append(settled_chars + shared)
        if shared == len(piece) and not piece.endswith(UNFINISHED):
            settled, settled_chars = i, settled_chars + shared
    # invalid bytes may merge when decoded together: no token may begin after a later one
    return DecodedText(text, tuple(accumulate(reversed(starts), min))[::-1])


def _shared_length(piece: str, text: str) -> int:
    if text.startswith(piece):
        return len(piece)
    return next((i for i, (a, b) in enumerate(zip(piece, text, strict=False)) if a != b), min(len(piece), len(text)))
