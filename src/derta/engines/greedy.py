"""The decode loop: greedy, in batches that rows leave as soon as they are done."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch

from derta.engines.barring import Bar, choose
from derta.engines.passes import forward, keep_rows
from derta.engines.prefill import Prefix, prefill


class Written(NamedTuple):
    """What a model wrote after row `row` of a batch; the stop token is not part of it."""

    row: int
    token_ids: list[int]
    stop_reason: Literal["eos", "length"]


@torch.inference_mode()
def greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    bars: Sequence[Bar | None] | None = None,
    prefixes: Sequence[Prefix | None] | None = None,
) -> Iterator[Written]:
    """Yield each row's continuation when it ends; the others go on in a smaller batch.

    `bars` says for each row what may not be written in it, `prefixes` what it begins with, if others do too. Of tokens
    that are equally likely the first is written, as `generate` does.
    """
    logits, cache, mask = prefill(model, prompts, prefixes)
    live = list(range(len(prompts)))
    token_ids: list[list[int]] = [[] for _ in prompts]
    while True:
        own = None if bars is None else [(token_ids[row], bars[row]) for row in live]
        chosen = choose(logits, own)
        going: list[int] = []
        for place, (row, token) in enumerate(zip(live, chosen, strict=True)):
            if token in stop_ids:
                yield Written(row, token_ids[row], "eos")
                continue
            token_ids[row].append(token)
            if len(token_ids[row]) == max_new_tokens:
                yield Written(row, token_ids[row], "length")
            else:
                going.append(place)
        if not going:
            return
        if len(going) < len(live):
            mask = keep_rows(going, mask=mask, cache=cache)
            live = [live[place] for place in going]
        input_ids = torch.tensor([[chosen[place]] for place in going], device=mask.device)
        mask = torch.cat([mask, mask.new_ones(len(going), 1)], dim=1)
        output = forward(model, input_ids=input_ids, mask=mask, cache=cache, logits_to_keep=1)
        logits, cache = output.logits[:, -1], output.past_key_values
