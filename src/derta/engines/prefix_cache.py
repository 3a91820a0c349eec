"""Prefill with a prefix cache and in chunks: a prefix that several prompts share is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from derta.engines.batching import PaddedBatch, forward, pad, token_batches
from derta.engines.capacity import chunk_tokens

PASS_TOKENS = 64
"""Fixed cost of the extra pass over a prefix, in tokens: sharing must save more than this."""

States = list[Float[Tensor, "row head token dim"]]
"""The keys and the values of each layer in turn."""


@dataclass(slots=True, eq=False)
class Prefix:
    """Shared first tokens of several prompts; `states` holds their keys and values (one row) once computed."""

    token_ids: Sequence[int]
    states: States | None = None


class PrefillOutput(NamedTuple):
    """Output of a prefill: the logits after each prompt of a batch, the KV cache, and the attention mask."""

    logits: Float[Tensor, "row vocab"]
    cache: Any
    mask: Int[Tensor, "row token"]


class PrefixGroup(NamedTuple):
    """Rows whose first `length` tokens are the same."""

    rows: tuple[int, ...]
    length: int


def find_prefixes(model: Any, rows: Sequence[Sequence[int]]) -> list[Prefix | None]:
    """Return each row's shared prefix, or None; all None if the model does not support a prefix cache."""
    prefixes: list[Prefix | None] = [None] * len(rows)
    for group in shared_prefixes(rows) if supports_prefix_cache(model) else ():
        prefix = Prefix(rows[group.rows[0]][: group.length])
        for row in group.rows:
            prefixes[row] = prefix
    return prefixes


def supports_prefix_cache(model: Any) -> bool:
    """Return whether a model's cache holds only keys and values, which later tokens do not change."""
    supports_dynamic_cache = getattr(model, "_supports_default_dynamic_cache", None)  # all of transformers have it
    if supports_dynamic_cache is None or not supports_dynamic_cache():
        return False
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    return kinds <= {DynamicLayer, DynamicSlidingWindowLayer} and not uses_dynamic_rope(model.config.get_text_config())


def uses_dynamic_rope(config: Any) -> bool:
    """Return whether rotary angles depend on the length of the longest prompt of a batch."""
    parameters = getattr(config, "rope_parameters", None) or {}  # None without rotary positions
    by_layer = [kind for kind in parameters.values() if isinstance(kind, dict)]
    return any(kind.get("rope_type") in {"dynamic", "longrope"} for kind in (parameters, *by_layer))


def prefill(
    model: Any, rows: Sequence[Sequence[int]], prefixes: Sequence[Prefix | None] | None = None
) -> PrefillOutput:
    """Compute the KV cache of a batch of prompts, padded on the left.

    The output is that of one forward pass, however the batch is split into prefixes and chunks.
    """
    prefixes = prefixes or [None] * len(rows)
    mask = pad([[1] * len(row) for row in rows], side="left", device=model.device).mask
    batches = _chunks(rows, prefixes, limit=chunk_tokens(model.device))
    if not supports_prefix_cache(model) or (len(batches) == 1 and not any(prefixes)):
        whole = pad(rows, side="left", device=model.device)
        output = forward(model, **whole._asdict(), cache=None, logits_to_keep=1)
        return PrefillOutput(output.logits[:, -1], output.past_key_values, mask)
    for prefix in prefixes:
        if prefix is not None and prefix.states is None:
            prefix.states = _prefill_chunk(model, [prefix.token_ids], [None])[1]
    chunks = [_prefill_chunk(model, [rows[i] for i in batch], [prefixes[i] for i in batch]) for batch in batches]
    cache = DynamicCache(config=model.config)
    for layer in range(len(chunks[0][1]) // 2):  # the chunks of a layer are freed before the next layer is joined
        keys, values = (_join([chunk[1].pop(0) for chunk in chunks], batches) for _ in range(2))
        cache.update(keys, values, layer)
    order = torch.tensor([i for batch in batches for i in batch], device=model.device).argsort()
    return PrefillOutput(torch.cat([chunk[0] for chunk in chunks])[order], cache, mask)


def _chunks(rows: Sequence[Sequence[int]], prefixes: Sequence[Prefix | None], *, limit: int) -> list[list[int]]:
    """Return the rows of each chunk; rows with and without a prefix differ in new tokens and share no chunk."""
    new = [len(row) - len(prefix.token_ids if prefix else ()) for row, prefix in zip(rows, prefixes, strict=True)]
    chunks: list[list[int]] = []
    for has_prefix in (True, False):
        indices = [i for i, prefix in enumerate(prefixes) if (prefix is not None) == has_prefix]
        lengths = [new[i] for i in indices]
        batches = token_batches(lengths, max_batch_tokens=limit, max_rows=len(indices))
        chunks += [[indices[place] for place in batch] for batch in batches]
    return chunks


def _prefill_chunk(
    model: Any, rows: Sequence[Sequence[int]], prefixes: Sequence[Prefix | None]
) -> tuple[Float[Tensor, "row vocab"], States]:
    """Compute the logits and states of a chunk of rows after their cached prefixes.

    The same number of last tokens is computed for each row, which may include tokens of its prefix; the states before
    them come from the prefix. So rows have padding on the left only, and sliding attention windows remain valid.
    """
    new = max(len(row) - len(prefix.token_ids if prefix else ()) for row, prefix in zip(rows, prefixes, strict=True))
    cached = [max(0, len(row) - new) for row in rows]
    last = pad([row[-new:] for row in rows], side="left", device=model.device)
    whole = pad([[1] * len(row) for row in rows], side="left", device=model.device)
    states = _cached_states(cached, prefixes)
    cache: Any = DynamicCache(list(zip(states[::2], states[1::2], strict=True)))
    chunk = PaddedBatch(last.input_ids, whole.mask)
    output = forward(model, **chunk._asdict(), cache=cache, logits_to_keep=1)
    return output.logits[:, -1], [states for layer in cache.layers for states in (layer.keys, layer.values)]


def _cached_states(counts: Sequence[int], prefixes: Sequence[Prefix | None]) -> States:
    """Return the prefix states of the first `counts[i]` tokens of each row i, padded on the left."""
    width = max(counts)
    shapes = next((prefix.states for prefix in prefixes if width and prefix and prefix.states), [])
    padded = [source.new_zeros(len(counts), source.shape[1], width, source.shape[3]) for source in shapes]
    for row, (count, prefix) in enumerate(zip(counts, prefixes, strict=True)):
        for output, source in zip(padded, (prefix and prefix.states) or (), strict=False):
            output[row, :, width - count :] = source[0, :, :count]
    return padded


def _join(
    chunks: Sequence[Float[Tensor, "_ head _ dim"]], batches: Sequence[Sequence[int]]
) -> Float[Tensor, "row head token dim"]:
    """Concatenate the rows of several chunks into one batch, in their original order, padded on the left."""
    first, width = chunks[0], max(chunk.shape[2] for chunk in chunks)
    whole = first.new_zeros(sum(len(chunk) for chunk in chunks), first.shape[1], width, first.shape[3])
    for chunk, batch in zip(chunks, batches, strict=True):
        whole[batch, :, width - chunk.shape[2] :] = chunk
    return whole


@dataclass(slots=True)
class _OpenGroup:
    """Group of sorted rows from `left` with `depth` common tokens, while its end is unknown."""

    depth: int
    left: int
    saved: int = 0
    groups: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])

    def close(self, right: int) -> None:
        """End the group before `right`: keep it, or the groups inside it if they save more tokens."""
        whole = (right - self.left - 1) * self.depth - PASS_TOKENS
        if whole > self.saved:
            self.saved, self.groups = whole, [(self.left, right, self.depth)]


def shared_prefixes(rows: Sequence[Sequence[int]]) -> list[PrefixGroup]:
    """Return the groups of rows that save the most tokens if each group's prefix is computed once.

    A row may be in no group. A prefix excludes the last token of each row, as the model needs an input token.

    >>> text = list(range(100))
    >>> shared_prefixes([[*text, 1], [5, 6], [*text, 2, 3], [*text, 2]])
    [PrefixGroup(rows=(0, 3, 2), length=100)]
    """
    order = sorted(range(len(rows)), key=lambda i: tuple(rows[i]))
    stack = [_OpenGroup(depth=0, left=0)]
    for right, depth in enumerate(_common(rows, order), start=1):
        left = right - 1
        while stack[-1].depth > depth:
            done = stack.pop()
            done.close(right)
            left = done.left
            if stack[-1].depth < depth:
                stack.append(_OpenGroup(depth, left))
            stack[-1].saved += done.saved
            stack[-1].groups += done.groups
        if stack[-1].depth < depth:
            stack.append(_OpenGroup(depth, left))
    return [PrefixGroup(tuple(order[left:right]), depth) for left, right, depth in stack[0].groups]


def _common(rows: Sequence[Sequence[int]], order: Sequence[int]) -> Iterator[int]:
    """Yield the number of first tokens that each row shares with the next one, excluding last tokens; then 0."""
    for i, j in pairwise(order):
        first, second = rows[i][:-1], rows[j][:-1]
        yield next(
            (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
        )
    yield 0
