"""Engine for Hugging Face causal language models, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

from derta.chat import ChatFormat, Turn, answer_offset, encode_prompt, refusal_tokens
from derta.engines.batching import in_eval_mode, token_batches
from derta.engines.capacity import batch_tokens, max_logits
from derta.engines.decoding import BannedTokens, banned_tokens, decode
from derta.engines.prefix_cache import Prefix, find_prefixes, supports_prefix_cache
from derta.engines.sampling import Draws
from derta.engines.scoring import RowScores, score
from derta.engines.threshold import RefusalForcing
from derta.engines.token_io import (
    check_encoded,
    check_ids,
    detokenize,
    encode_turns,
    refusal_probabilities,
    refusal_rows,
)
from derta.errors import ModelError
from derta.loading import (
    position_limit,
)
from derta.records import REFUSAL_WORDS, Prompt, Reply
from derta.sampling import GREEDY, Sampling


class RefusalStarts(NamedTuple):
    """Scores of the first tokens of the refusal words at each position of a continuation, and after its last token.

    `margins` are the largest logit of the other tokens minus that of these.
    """

    probabilities: list[float]
    margins: list[float]


class ReplyRow(NamedTuple):
    """Row of a batch: a sample of the reply to a prompt."""

    prompt: Prompt
    token_ids: list[int]
    banned: BannedTokens | None
    sample: int


@dataclass(frozen=True, slots=True)
class HfEngine:
    """Causal language model with its chat format.

    A model in training mode is in eval mode while it computes, and in training mode between replies and afterwards.
    `max_batch_tokens` limits rows times (prompt and new tokens) of a batch, and so the size of the KV cache; None: the
    limit of the device (see `capacity`). `forcing` are the refusal tokens that `generate` forces where they reach a
    threshold.
    """

    model: Any
    chat: ChatFormat
    refusal_words: tuple[str, ...] = REFUSAL_WORDS
    max_batch_tokens: int | None = None
    forcing: RefusalForcing | None = None

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> Iterator[Reply]:
        """Yield replies, each as soon as it ends; prompts of similar length share a batch.

        A reply is the exact text that continues the prompt and its prefill, with special tokens. Its stop reason is
        `eos` at a stop token of the model or the template, which the reply does not contain. A prompt's `decoding`
        is respected: a sampled token is drawn from those that are not banned. A threshold forces refusals in samples,
        too.

        Raises:
            ModelError: Before any reply, if a prompt is empty, has a token without an embedding or leaves no room for
                `max_new_tokens`, or if the tokenizer can encode none of its banned texts.
            EngineError: The logits after a prompt are NaN or infinite; replies that are already complete are yielded.
        """
        if max_new_tokens < 1:
            raise ModelError(f"max_new_tokens: expected at least 1, got {max_new_tokens}")
        encoded = [encode_prompt(self.chat, prompt) for prompt in prompts]
        self._check_prompts(prompts, encoded, [max_new_tokens] * len(encoded))
        banned = self._banned(prompts)  # before the first reply, so that an error is raised early
        inputs = zip(prompts, encoded, banned, strict=True)
        rows = [ReplyRow(*one, sample) for one in inputs for sample in sampling.numbers]
        return self._replies(rows, max_new_tokens, sampling)

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return the log-probability (nats) of each token of each continuation, tokenized jointly with its prompt.

        A token with characters of both the prompt and the continuation belongs to the continuation.

        Raises:
            EngineError: The logits are NaN or infinite.
        """
        return [scored.log_probs for scored in self._score(prompts, encode_turns(self.chat, prompts, continuations))]

    def refusal_probability(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return the probability of a refusal word at each token of each continuation, and after the last.

        A form of a word that is several tokens needs a separate row for each position.

        Raises:
            ModelError: The tokenizer cannot encode a refusal word.
            EngineError: The logits are NaN or infinite.
        """
        forms = refusal_tokens(self.chat, self.refusal_words).forms
        self._check_ids("refusal_words", [token for form in forms for token in form])
        turns = encode_turns(self.chat, prompts, continuations)
        single_ids, longer = [form[0] for form in forms if len(form) == 1], [form for form in forms if len(form) > 1]
        parts = [[scored.refusal_probs for scored in self._score(prompts, turns, refusal_ids=single_ids)]]
        if longer:
            parts.append(self._score_words(prompts, turns, forms=longer))
        return [[min(1.0, sum(place)) for place in zip(*rows, strict=True)] for rows in zip(*parts, strict=True)]

    def refusal_starts(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[RefusalStarts]:
        """Return the probability and the margin of the first tokens of refusal words, at each token and after the last.

        A word of several tokens counts by its first, as in decoding with a threshold. Where the continuation has such a
        token itself, as in "Sorry to hear that", the probability is 0 and the margin infinite: nothing would change if
        it were forced there.

        Raises:
            ModelError: The tokenizer cannot encode a refusal word.
            EngineError: The logits are NaN or infinite.
        """
        token_ids = refusal_tokens(self.chat, self.refusal_words).ids
        self._check_ids("refusal_words", token_ids)
        turns = encode_turns(self.chat, prompts, continuations)
        scores = self._score(prompts, turns, refusal_ids=token_ids, margins=True)
        starts = [RefusalStarts(one.refusal_probs, one.margins) for one in scores]
        ids = {*token_ids}
        for one, turn in zip(starts, turns, strict=True):
            for place, token in enumerate(turn.response_ids):
                if token in ids:
                    one.probabilities[place], one.margins[place] = 0.0, inf
        return starts

    def next_refusals(self, prompts: Sequence[Prompt], turns: Sequence[Turn]) -> list[list[float]]:
        """Return the probability that the next token starts a refusal word, before each response token and after all.

        The words count by their first tokens, so that one pass over the turns is enough. The `prompts` are those of the
        encoded turns. Bans and thresholds of decoding change nothing here.

        Raises:
            ModelError: The tokenizer cannot encode a refusal word.
            EngineError: The logits are NaN or infinite.
        """
        token_ids = refusal_tokens(self.chat, self.refusal_words).ids
        self._check_ids("refusal_words", token_ids)
        return [one.refusal_probs for one in self._score(prompts, turns, refusal_ids=token_ids)]

    def _score_words(
        self, prompts: Sequence[Prompt], turns: Sequence[Turn], *, forms: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the probability of forms of several tokens at each position of each turn."""
        groups = [refusal_rows(turn, forms) for turn in turns]
        words = [Turn(row.token_ids[: row.start], row.token_ids[row.start :], []) for rows in groups for row in rows]
        named = [prompt for prompt, rows in zip(prompts, groups, strict=True) for _ in rows]
        scores = iter(self._score(named, words))
        return [refusal_probabilities([next(scores).log_probs for _ in rows], len(forms)) for rows in groups]

    def _banned(self, prompts: Sequence[Prompt]) -> list[BannedTokens | None]:
        stop_ids = stop_tokens(self.model, self.chat)
        by_decoding: dict[str, BannedTokens] = {}
        banned: list[BannedTokens | None] = [None] * len(prompts)
        for i, decoding in enumerate(prompt.decoding for prompt in prompts):
            if decoding is not None:
                key = decoding.model_dump_json()
                by_decoding[key] = by_decoding.get(key) or banned_tokens(self.chat, decoding, stop_ids=stop_ids)
                banned[i] = by_decoding[key]
        return banned

    def _prefilled(self, prompts: Sequence[Prompt]) -> list[int] | None:
        """Return the number of tokens of each prompt's prefill, if thresholds depend on the position."""
        if self.forcing is None or not self.forcing.later:
            return None
        return [
            len(encode_prompt(self.chat, one)) - len(encode_prompt(self.chat, one.model_copy(update={"prefill": None})))
            if one.prefill
            else 0
            for one in prompts
        ]

    def _replies(self, rows: Sequence[ReplyRow], max_new_tokens: int, sampling: Sampling) -> Iterator[Reply]:
        stop_ids = stop_tokens(self.model, self.chat)
        encoded = [row.token_ids for row in rows]
        prefixes = find_prefixes(self.model, encoded)
        for batch in self._batches([len(ids) + max_new_tokens for ids in encoded], prefixes):
            chosen = [rows[index] for index in batch]
            prompts = [row.prompt for row in chosen]
            seeds = [sampling.seed_of(row.prompt.id, row.sample) for row in chosen]
            drawn = tuple(seed for seed in seeds if seed is not None)
            generated = decode(
                self.model,
                [row.token_ids for row in chosen],
                max_new_tokens=max_new_tokens,
                stop_ids=stop_ids,
                banned=[row.banned for row in chosen],
                prefixes=_take_prefixes(prefixes, batch),
                forcing=self.forcing,
                prefilled=self._prefilled(prompts),
                draws=None if sampling.is_greedy else Draws(sampling.temperature, sampling.top_p, drawn),
            )
            for one in in_eval_mode(self.model, generated, prompts):
                prompt, token_ids, _, sample = chosen[one.row]
                detokenized = detokenize(self.chat.tokenizer, one.token_ids)
                yield Reply(
                    prompt_id=prompt.id,
                    sample=sample,
                    seed=seeds[one.row],
                    text=detokenized.text,
                    stop_reason=one.stop_reason,
                    token_ids=tuple(one.token_ids),
                    token_starts=detokenized.token_starts,
                    prompt_tokens=len(token_ids),
                    answer_at=answer_offset(self.chat, prompt, detokenized.text),
                )

    def _score(
        self,
        prompts: Sequence[Prompt],
        turns: Sequence[Turn],
        *,
        refusal_ids: Sequence[int] = (),
        margins: bool = False,
    ) -> list[RowScores]:
        prompt_ids, response_ids = [turn.prompt_ids for turn in turns], [turn.response_ids for turn in turns]
        self._check_prompts(prompts, prompt_ids, [len(ids) for ids in response_ids])
        for prompt, ids in zip(prompts, response_ids, strict=True):
            self._check_ids(f"prompt {prompt.id!r}: its continuation", ids)
        by_index: dict[int, RowScores] = {}
        prefixes = find_prefixes(self.model, prompt_ids)
        lengths = [len(turn.prompt_ids) + len(turn.response_ids) for turn in turns]
        for batch in self._batches(lengths, prefixes):
            rows = [turns[index] for index in batch]
            shared = _take_prefixes(prefixes, batch)
            scores = score(self.model, rows, refusal_ids=refusal_ids, prefixes=shared, margins=margins)
            batch_scores = in_eval_mode(self.model, scores, [prompts[index] for index in batch])
            by_index |= {batch[scored.row]: scored for scored in batch_scores}
        return [by_index[index] for index in range(len(turns))]

    def _batches(self, lengths: Sequence[int], prefixes: Sequence[Prefix | None]) -> Iterator[list[int]]:
        tokens = self.max_batch_tokens or batch_tokens(self.model, chunked=supports_prefix_cache(self.model))
        max_rows = max_logits(self.model.device) // self._num_embeddings
        together: dict[int, list[int]] = {}
        for row, prefix in enumerate(prefixes):
            if prefix is not None:
                together.setdefault(id(prefix), []).append(row)
        return token_batches(lengths, max_batch_tokens=tokens, max_rows=max_rows, together=[*together.values()])

    def _check_prompts(self, prompts: Sequence[Prompt], encoded: Sequence[Sequence[int]], new: Sequence[int]) -> None:
        positions = position_limit(self.model.config)
        for prompt, ids, more in zip(prompts, encoded, new, strict=True):
            name = f"prompt {prompt.id!r}"
            check_encoded(self.chat, name, ids, new_tokens=more, positions=positions, embeddings=self._num_embeddings)

    def _check_ids(self, name: str, ids: Sequence[int]) -> None:
        check_ids(self.chat, name, ids, embeddings=self._num_embeddings)

    @property
    def _num_embeddings(self) -> int:
        return int(self.model.get_input_embeddings().num_embeddings)


def _take_prefixes(prefixes: list[Prefix | None], batch: Sequence[int]) -> list[Prefix | None]:
    """Remove and return the prefixes of a batch, so that a prefix is freed after its last batch."""
    batch_prefixes = [prefixes[index] for index in batch]
    for index in batch:
        prefixes[index] = None
    return batch_prefixes


def stop_tokens(model: Any, chat: ChatFormat) -> frozenset[int]:
    """Return the token ids that end a reply: stop tokens of the template and of the model's generation config."""
    eos: int | list[int] | None = model.generation_config.eos_token_id
    eos_ids = eos if isinstance(eos, list) else [eos]
    return chat.stop_ids | {token for token in eos_ids if token is not None}
