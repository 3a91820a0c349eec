"""Forced refusals: where the refusal tokens together reach a threshold's probability, one of them is the next token.

The model then continues by itself. After a refusal token, forced or not, none is forced for `QUIET_TOKENS` tokens, so
that a refusal is written and not started again. So a reply that begins to refuse and then complies is stopped again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from derta.chat import ChatFormat, refusal_tokens
from derta.errors import ModelError
from derta.provenance import model_hash
from derta.thresholds import Later, RefusalThreshold, read_threshold

QUIET_TOKENS = 32
"""Number of tokens after a refusal token at which none is forced: about the length of a refusal."""


class RefusalForcing(NamedTuple):
    """The refusal tokens, and the summed probability from which on one of them is forced.

    `later` are the thresholds of later positions.
    """

    token_ids: tuple[int, ...]
    threshold: float
    later: Later = ()


def forced_scores(
    scores: Float[Tensor, "row vocab"], forcing: RefusalForcing, positions: Int[Tensor, " row"] | None = None
) -> tuple[Bool[Tensor, " row"], Int[Tensor, " row"]]:
    """Return for each row whether it is an alarm, and the most likely refusal token.

    `positions` are the numbers of tokens that the answers of the rows have; None: 0.

    The probability is that of a softmax over the scores, so tokens of score −∞ (banned ones) have none.

    >>> scores = torch.tensor([[0.0, 1.0, 2.0], [9.0, 1.0, 2.0]])
    >>> [part.tolist() for part in forced_scores(scores, RefusalForcing((1, 2), 0.5))]  # p = 0.91 and 0.0012
    [[True, False], [2, 2]]
    """
    exact = scores.float()
    ids = torch.tensor(forcing.token_ids, device=scores.device)
    refusal = exact[:, ids]
    probability = (refusal.logsumexp(dim=-1) - exact.logsumexp(dim=-1)).exp()
    thresholds = torch.full_like(probability, forcing.threshold, dtype=torch.float64)
    if positions is not None:
        for first, threshold in forcing.later:
            thresholds = thresholds.masked_fill(positions >= first, threshold)
    return probability >= thresholds, ids[refusal.argmax(dim=-1)]


def is_quiet(generated: Sequence[int], forcing: RefusalForcing) -> bool:
    """Return whether a refusal token is among the last `QUIET_TOKENS` generated tokens."""
    return not {*forcing.token_ids}.isdisjoint(generated[-QUIET_TOKENS:])


def forced_tokens(
    logits: Float[Tensor, "row vocab"],
    generated: Sequence[Sequence[int]],
    forcing: RefusalForcing,
    *,
    positions: Sequence[int],
    banned: Mapping[int, AbstractSet[int]] | None = None,
) -> list[int | None]:
    """Return the refusal token that is forced in each row, or None.

    Args:
        logits: Logits of the next tokens.
        generated: The tokens that each row has so far.
        forcing: The refusal tokens and their threshold.
        positions: Number of tokens of each row's answer, with those of a prefill.
        banned: The tokens that the rows with a ban may not generate.
    """
    if banned:
        logits = logits.clone()
        for row, tokens in banned.items():
            logits[row, list(tokens)] = -torch.inf
    is_alarm, refusals = forced_scores(logits, forcing, torch.tensor(positions, device=logits.device))
    return [
        refusal if alarm and not is_quiet(row, forcing) else None
        for alarm, refusal, row in zip(is_alarm.tolist(), refusals.tolist(), generated, strict=True)
    ]


def force(
    scores: Float[Tensor, "row vocab"],
    forcing: RefusalForcing,
    *,
    may_force: Bool[Tensor, " row"],
    positions: Int[Tensor, " row"],
) -> Float[Tensor, "row vocab"]:
    """Return the scores; in rows with an alarm that may be forced, only a refusal token is left, with a score of 0."""
    is_alarm, refusals = forced_scores(scores, forcing, positions)
    forced = is_alarm & may_force
    scores = scores.masked_fill(forced[:, None], -torch.inf)
    scores[forced, refusals[forced]] = 0.0
    return scores


class RefusalLogitsProcessor(LogitsProcessor):
    """Logits processor for `model.generate` that forces a refusal token at alarms, as the engine `hf` does.

    It takes batches, sampling and beams: a forced token has the probability 1. It keeps the length of the current
    call's prompts, so one processor serves one call at a time, and any number of calls one after another.

    >>> processor = RefusalLogitsProcessor((2,), 0.5)
    >>> processor(torch.tensor([[7, 7], [7, 7]]), torch.tensor([[0.0, 0.0, 1.0], [9.0, 0.0, 1.0]])).tolist()
    [[-inf, -inf, 0.0], [9.0, 0.0, 1.0]]
    """

    supports_continuous_batching = False

    def __init__(self, token_ids: Sequence[int], threshold: float, later: Later = ()) -> None:
        """Create a processor.

        Args:
            token_ids: The refusal tokens.
            threshold: Their summed probability from which on one of them is forced.
            later: Thresholds of later positions, in generated tokens.

        Raises:
            ModelError: there is no token, or the threshold is no probability.
        """
        if not token_ids:
            raise ModelError("refusal threshold: expected at least one refusal token, got none")
        self.forcing = RefusalForcing(tuple(token_ids), check_probability(threshold), tuple(later))
        self._prompts: Int[Tensor, "row token"] | None = None
        self._length = 0

    @classmethod
    def load(cls, path: str | Path, *, model: str | Path, adapter: str | Path | None = None) -> RefusalLogitsProcessor:
        """Load the threshold of a model from the file of `derta threshold`.

        Raises:
            DataError: the file is no threshold.
            ModelError: it is of another model.
        """
        calibrated = read_threshold(path)
        check_model(calibrated, path, model=model, adapter=adapter)
        return cls(calibrated.token_ids, calibrated.threshold, calibrated.later)

    def __call__(self, input_ids: Int[Tensor, "row token"], scores: Float[Tensor, "row vocab"]) -> Tensor:
        """Return the scores, with only a refusal token left in rows with an alarm."""
        generated = input_ids[:, self._prompt_length(input_ids) :]
        ids = torch.tensor(self.forcing.token_ids, device=input_ids.device)
        is_quiet_row = torch.isin(generated[:, -QUIET_TOKENS:], ids).any(dim=-1)
        positions = torch.full_like(input_ids[:, 0], generated.shape[1])
        return force(scores, self.forcing, may_force=~is_quiet_row, positions=positions)

    def _prompt_length(self, input_ids: Int[Tensor, "row token"]) -> int:
        """Return the length of the prompts, which a call of `generate` passes first."""
        rows, length = input_ids.shape
        old = self._prompts
        follows = (
            old is not None
            and (rows, length) == (len(old), self._length + 1)
            and torch.equal(input_ids[:, : old.shape[1]], old)
        )
        if not follows or old is None:
            old = self._prompts = input_ids.clone()
        self._length = length
        return old.shape[1]


def check_probability(threshold: float) -> float:
    """Return a threshold if it is a probability.

    Raises:
        ModelError: it is not.
    """
    if not 0 < threshold <= 1:
        raise ModelError(f"refusal threshold: expected a probability above 0 and at most 1, got {threshold:g}")
    return float(threshold)


def model_identity(model: str | Path, adapter: str | Path | None = None) -> dict[str, str]:
    """Return the identity of a model with its adapter, as a threshold's file has it.

    Raises:
        ModelError: a file of the model cannot be read.
    """
    return {"model": model_hash(model), **({} if adapter is None else {"adapter": model_hash(adapter)})}


def check_model(
    calibrated: RefusalThreshold, path: str | Path, *, model: str | Path, adapter: str | Path | None = None
) -> None:
    """Fail if a threshold is of another model.

    Raises:
        ModelError: it is.
    """
    if model_identity(model, adapter) != calibrated.model:
        raise ModelError(
            f"{path}: expected the threshold of {adapter or model}, got that of another model; calibrate it with "
            "`derta threshold`, or pass a number"
        )


def refusal_forcing(
    threshold: float | str | Path,
    *,
    chat: ChatFormat,
    words: Sequence[str],
    model: str | Path | None,
    adapter: str | Path | None = None,
) -> RefusalForcing:
    """Return what an engine forces, from a number or from a calibrated file.

    Args:
        threshold: A probability, or the path of a threshold's file.
        chat: Chat format with the tokenizer.
        words: The refusal words.
        model: Folder or hub id of the model; None for a model in memory, which has no identity.
        adapter: Folder or hub id of its adapter.

    Raises:
        DataError: the file is no threshold.
        ModelError: the number is no probability, or the file is of another model or of other refusal words.
    """
    token_ids = refusal_tokens(chat, words).ids
    if isinstance(threshold, float | int):
        return RefusalForcing(token_ids, check_probability(threshold))
    calibrated = read_threshold(threshold)
    if model is None:
        raise ModelError(
            f"{threshold}: expected a number for a model in memory, which no file is of; pass its threshold"
        )
    check_model(calibrated, threshold, model=model, adapter=adapter)
    if calibrated.token_ids != token_ids:
        raise ModelError(
            f"{threshold}: expected the threshold of the refusal words {', '.join(words)}, got that of "
            f"{', '.join(calibrated.refusal_words)}; set the same refusal_words, or calibrate it again"
        )
    return RefusalForcing(token_ids, calibrated.threshold, calibrated.later)
