"""Forced refusals in vLLM: a custom logits processor for each of its two interfaces.

    DERTA_REFUSAL_THRESHOLD=threshold.json vllm serve models/derta \
        --logits-processors derta.engines.vllm_threshold:RefusalThresholdV1

`RefusalThresholdV1` is for `vllm.v1.sample.logits_processor`, `RefusalThresholdV2` for the second model runner's
`vllm.v1.worker.gpu.sample.logits_processor`. The threshold holds for all requests of the server: one that a request
could switch off would protect nobody. The classes are made on first use, so that this module can be imported without
vLLM. They are written to vLLM's documentation and tested with stand-ins of its interfaces, not in vLLM.

Source: docs.vllm.ai, "Custom Logits Processors" (v0.22 and v0.32), and the docstrings of both interfaces.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from derta.engines.threshold import QUIET_TOKENS, RefusalForcing, check_model, force, is_quiet
from derta.errors import EngineError
from derta.thresholds import read_threshold

VARIABLE = "DERTA_REFUSAL_THRESHOLD"
"""Environment variable with the path of the threshold's file."""
_INTERFACES = {
    "RefusalThresholdV1": "vllm.v1.sample.logits_processor",
    "RefusalThresholdV2": "vllm.v1.worker.gpu.sample.logits_processor",
}


def __getattr__(name: str) -> Any:
    """Return a processor's class, a subclass of the installed vLLM's."""
    if name not in _INTERFACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _processor(name)


@lru_cache
def _processor(name: str) -> type:
    base: type = import_module(_INTERFACES[name]).LogitsProcessor
    own = BatchThreshold if name == "RefusalThresholdV1" else SlotThreshold
    return type(name, (own, base), {"__module__": __name__, "__doc__": own.__doc__})


def server_forcing(vllm_config: Any) -> RefusalForcing:
    """Return what a server forces, from the file that the environment names.

    Raises:
        EngineError: the variable is not set, or decoding is speculative.
        DataError: the file is no threshold.
        ModelError: it is of another model.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        raise EngineError(f"{VARIABLE}: expected the path of a file of `derta threshold`, got none; set the variable")
    if getattr(vllm_config, "speculative_config", None) is not None:
        raise EngineError("refusal threshold: expected a server without speculative decoding, got one; switch it off")
    calibrated = read_threshold(path)
    check_model(calibrated, path, model=vllm_config.model_config.model)
    return RefusalForcing(calibrated.token_ids, calibrated.threshold, calibrated.later)


class BatchThreshold:
    """Methods of the processor for vLLM's first interface, which announces the changes of its batch."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """Read the threshold of the server's model."""
        del device, is_pin_memory
        self._forcing = server_forcing(vllm_config)
        self._outputs: dict[int, list[int]] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Accept any request: none has a setting for this processor."""
        del sampling_params

    def is_argmax_invariant(self) -> bool:
        """False: it changes the most likely token."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Keep a reference to the generated tokens of each request, by its row: removals, additions, then moves."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._outputs.pop(row, None)
        for row, _, _, output_ids in batch_update.added:
            self._outputs[row] = output_ids
        for first, second, direction in batch_update.moved:
            moved, replaced = self._outputs.pop(first, None), self._outputs.pop(second, None)
            if moved is not None:
                self._outputs[second] = moved
            if direction.name == "SWAP" and replaced is not None:
                self._outputs[first] = replaced

    def apply(self, logits: Float[Tensor, "row vocab"]) -> Float[Tensor, "row vocab"]:
        """Return the logits, with only a refusal token left in rows with an alarm."""
        outputs = [self._outputs.get(row, []) for row in range(len(logits))]
        may_force = torch.tensor([not is_quiet(one, self._forcing) for one in outputs], device=logits.device)
        positions = torch.tensor(list(map(len, outputs)), device=logits.device)
        return force(logits, self._forcing, may_force=may_force, positions=positions)


class SlotThreshold:
    """Methods of the processor for the interface of vLLM's second model runner, which has the tokens on the device."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        """Read the threshold of the server's model."""
        self._forcing = server_forcing(vllm_config)
        self._states = req_states

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Accept any request: none has a setting for this processor."""
        del sampling_params

    def is_argmax_invariant(self) -> bool:
        """False: it changes the most likely token."""
        return False

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Return True: every request is processed, without a state of its own."""
        del req_idx, sampling_params
        return True

    def apply_staged_writes(self) -> None:
        """Do nothing: there is no state."""

    def apply(self, logits: Float[Tensor, "row vocab"], ctx: Any) -> Float[Tensor, "row vocab"]:
        """Return the logits, with only a refusal token left in rows with an alarm."""
        slots, last = ctx.expanded_idx_mapping.long(), ctx.pos.long()
        recent, is_generated = self._recent(slots, last)
        ids = torch.tensor(self._forcing.token_ids, device=logits.device)
        is_refusal = torch.isin(recent, ids) & is_generated
        positions = last + 1 - self._states.prompt_len.gpu[slots]
        return force(logits, self._forcing, may_force=~is_refusal.any(dim=-1), positions=positions)

    def _recent(self, slots: Int[Tensor, " row"], last: Int[Tensor, " row"]) -> tuple[Tensor, Tensor]:
        """Return the tokens up to the position of each row, and which of them are generated."""
        positions = last[:, None] - torch.arange(QUIET_TOKENS, device=last.device)
        tokens = self._states.all_token_ids.gpu[slots[:, None], positions.clamp(min=0)]
        return tokens, positions >= self._states.prompt_len.gpu[slots][:, None]
