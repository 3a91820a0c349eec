"""Any Hugging Face causal language model as an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from derta.chat import ChatFormat, Turn, chat_format, encode_after, encode_prompt
from derta.engines.barring import Bar, bar
from derta.engines.batches import token_batches
from derta.engines.greedy import greedy
from derta.engines.passes import MAX_LOGITS
from derta.engines.prefill import Prefix, find_prefixes
from derta.engines.score import Scored, score
from derta.engines.spelling import spell
from derta.errors import ModelError
from derta.loading import load_model, load_tokenizer
from derta.records import Prompt, Reply
from derta.refusals import DEFAULT_WORDS, refusal_tokens

MAX_BATCH_TOKENS = 16384


@dataclass(frozen=True, slots=True)
class HfEngine:
    """A causal language model, in eval mode, with the format its conversations take.

    `max_batch_tokens` bounds rows times (prompt and new tokens) of a batch, and with it the key-value cache.
    """

    model: Any
    chat: ChatFormat
    refusal_words: tuple[str, ...] = DEFAULT_WORDS
    max_batch_tokens: int = MAX_BATCH_TOKENS

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int) -> Iterator[Reply]:
        """Greedy replies, each as soon as it ends; prompts of like length are answered together.

        A reply is the exact text that goes on after the prompt and its prefill, special tokens and all. It stops with
        `eos` at any of the model's or the template's stop tokens, which it does not contain. A prompt's `decoding` is
        heeded.

        Raises:
            ModelError: before anything is generated, if a prompt is empty or leaves no room for `max_new_tokens`, or
                bars texts none of which the tokenizer can write.
        """
        if max_new_tokens < 1:
            raise ModelError(f"max_new_tokens: expected at least 1, got {max_new_tokens}")
        encoded = [encode_prompt(self.chat, prompt) for prompt in prompts]
        self._check_lengths(prompts, [len(ids) for ids in encoded], [max_new_tokens] * len(encoded))
        bars = self._bars(prompts)  # here, and not at the first reply, so that a fault shows at once
        return self._replies(prompts, encoded, max_new_tokens, bars)

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """The log-probability (nats) of each token of each continuation, tokenized jointly with what stands before.

        A token that holds the end of the prompt and the start of the continuation counts as the continuation's.
        """
        return [scored.log_probs for scored in self._score(prompts, continuations, refusal_ids=())]

    def refusal_probability(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """The probability of any refusal token at each token of each continuation, and after the last.

        Raises:
            ModelError: a refusal word is not a single token.
        """
        refusal_ids = refusal_tokens(self.chat, self.refusal_words).ids
        return [scored.refusal_probs for scored in self._score(prompts, continuations, refusal_ids=refusal_ids)]

    def _bars(self, prompts: Sequence[Prompt]) -> list[Bar | None]:
        stop_ids = stop_tokens(self.model, self.chat)
        known: dict[str, Bar] = {}
        bars: list[Bar | None] = [None] * len(prompts)
        for i, decoding in enumerate(prompt.decoding for prompt in prompts):
            if decoding is not None:
                key = decoding.model_dump_json()
                known[key] = known.get(key) or bar(self.chat, decoding, stop_ids=stop_ids)
                bars[i] = known[key]
        return bars

    def _replies(
        self, prompts: Sequence[Prompt], encoded: list[list[int]], max_new_tokens: int, bars: list[Bar | None]
    ) -> Iterator[Reply]:
        stop_ids = stop_tokens(self.model, self.chat)
        prefixes = find_prefixes(self.model, encoded)
        for batch in self._batches([len(ids) + max_new_tokens for ids in encoded], prefixes):
            for written in greedy(
                self.model,
                [encoded[index] for index in batch],
                max_new_tokens=max_new_tokens,
                stop_ids=stop_ids,
                bars=[bars[index] for index in batch],
                prefixes=_handed_over(prefixes, batch),
            ):
                spelled = spell(self.chat.tokenizer, written.token_ids)
                yield Reply(
                    prompt_id=prompts[batch[written.row]].id,
                    text=spelled.text,
                    stop_reason=written.stop_reason,
                    token_ids=tuple(written.token_ids),
                    token_starts=spelled.token_starts,
                )

    def _score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], *, refusal_ids: Sequence[int]
    ) -> list[Scored]:
        turns = [
            encode_after(self.chat, prompt, text) if text else Turn(encode_prompt(self.chat, prompt), [], [])
            for prompt, text in zip(prompts, continuations, strict=True)
        ]
        prompt_lengths = [len(turn.prompt_ids) for turn in turns]
        response_lengths = [len(turn.response_ids) for turn in turns]
        self._check_lengths(prompts, prompt_lengths, response_lengths)
        found: dict[int, Scored] = {}
        prefixes = find_prefixes(self.model, [turn.prompt_ids for turn in turns])
        lengths = [sum(pair) for pair in zip(prompt_lengths, response_lengths, strict=True)]
        for batch in self._batches(lengths, prefixes):
            own = [turns[index] for index in batch]
            for scored in score(self.model, own, refusal_ids=refusal_ids, prefixes=_handed_over(prefixes, batch)):
                found[batch[scored.row]] = scored
        return [found[index] for index in range(len(turns))]

    def _batches(self, lengths: Sequence[int], prefixes: Sequence[Prefix | None]) -> Iterator[list[int]]:
        max_rows = MAX_LOGITS // self.model.get_input_embeddings().num_embeddings
        together: dict[int, list[int]] = {}
        for row, prefix in enumerate(prefixes):
            if prefix is not None:
                together.setdefault(id(prefix), []).append(row)
        return token_batches(
            lengths, max_batch_tokens=self.max_batch_tokens, max_rows=max_rows, together=[*together.values()]
        )

    def _check_lengths(self, prompts: Sequence[Prompt], lengths: Sequence[int], new: Sequence[int]) -> None:
        if self.model.training:
            raise ModelError("expected a model in eval mode, got one in training mode; call `model.eval()` first")
        limit = position_limit(self.model)
        for prompt, length, more in zip(prompts, lengths, new, strict=True):
            if not length:
                raise ModelError(f"prompt {prompt.id!r} has no token that this tokenizer knows; drop it")
            if limit is not None and length + more > limit:
                raise ModelError(
                    f"prompt {prompt.id!r}: {length} tokens and {more} after them are more than the model's {limit} "
                    "positions; shorten the prompt or ask for fewer tokens"
                )


def _handed_over(prefixes: list[Prefix | None], batch: Sequence[int]) -> list[Prefix | None]:
    """The prefixes of a batch, forgotten in the list: what no later batch needs is then freed with this one."""
    own = [prefixes[index] for index in batch]
    for index in batch:
        prefixes[index] = None
    return own


def position_limit(model: Any) -> int | None:
    """The most tokens the model's positions reach, or None where its configuration names no limit."""
    # not every configuration has this setting, and some keep it under another name that only the attribute knows
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def stop_tokens(model: Any, chat: ChatFormat) -> frozenset[int]:
    """The ids that end a reply: the template's and those that the model's generation settings name."""
    named: int | list[int] | None = model.generation_config.eos_token_id
    own = named if isinstance(named, list) else [named]
    return chat.stop_ids | {token for token in own if token is not None}


def load_engine(
    path: str | Path,
    *,
    adapter: str | Path | None = None,
    template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    device: str = "auto",
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    refusal_words: Sequence[str] = DEFAULT_WORDS,
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> HfEngine:
    """Load a model folder or hub id, with a PEFT adapter on top if one is given.

    Args:
        path: a folder that `save_pretrained` wrote, or `org/name` on the hub; safetensors only.
        adapter: likewise, of a PEFT adapter. It is not merged: in bfloat16 merging would round it.
        template: `auto`, `paper`, `paper_eval` or a Jinja file, as for `chat_format`.
        template_kwargs: what the template is given besides, such as `enable_thinking: false`.
        dtype: `auto` (as saved), `float32`, `bfloat16` or `float16`.
        device: `auto` (all accelerators there are, else the CPU), `cpu`, `cuda:1` and so on.
        max_batch_tokens: the most rows times tokens in a batch.
        refusal_words: what `refusal_probability` looks for.
        threads: CPU threads of this whole process; None leaves torch's choice.
        trust_remote_code: run code that comes with the model.

    Raises:
        ModelError: no such folder or hub model, no model or tokenizer in it, or no usable chat template.
    """
    if threads is not None:
        if threads < 1:
            raise ModelError(f"threads: expected at least 1, got {threads}")
        torch.set_num_threads(threads)
    tokenizer = load_tokenizer(str(path), trust_remote_code=trust_remote_code)
    chat = chat_format(tokenizer, template=template, template_kwargs=template_kwargs)
    model = load_model(
        str(path),
        adapter=None if adapter is None else str(adapter),
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens, the model embeds {rows}; give the tokenizer that the "
            "model was trained with"
        )
    return HfEngine(model, chat, refusal_words=tuple(refusal_words), max_batch_tokens=max_batch_tokens)
