"""Stand-ins of vLLM's two interfaces of logits processors, as documented, and a loop that generates with each."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from types import ModuleType, SimpleNamespace
from typing import Any

import torch


class MoveDirectionality(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass(frozen=True)
class BatchUpdate:
    batch_size: int
    removed: list[int]
    added: list[tuple[int, Any, list[int] | None, list[int]]]
    moved: list[tuple[int, int, MoveDirectionality]]


class FirstInterface(ABC):
    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        return None

    @abstractmethod
    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None: ...

    @abstractmethod
    def apply(self, logits: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def is_argmax_invariant(self) -> bool: ...

    @abstractmethod
    def update_state(self, batch_update: BatchUpdate | None) -> None: ...


class SecondInterface(ABC):
    def __init__(self, vllm_config: Any, req_states: Any) -> None: ...  # noqa: B027 - as vLLM's

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        return True

    def apply_staged_writes(self) -> None: ...  # noqa: B027

    @abstractmethod
    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor: ...


def install(set_module: Callable[[Any, str, Any], None]) -> None:
    """Have the two modules found by an import; `set_module` is `monkeypatch.setitem`."""
    for name, base in (
        ("vllm.v1.sample.logits_processor", FirstInterface),
        ("vllm.v1.worker.gpu.sample.logits_processor", SecondInterface),
    ):
        module = ModuleType(name)
        module.LogitsProcessor = base  # type: ignore[attr-defined]
        set_module(sys.modules, name, module)


def config(model: Any, **changes: Any) -> Any:
    return SimpleNamespace(model_config=SimpleNamespace(model=str(model)), speculative_config=None, **changes)


Step = Callable[[list[list[int]]], torch.Tensor]
"""Function from the token ids of some rows to the logits of their next tokens."""


def run_first(processor: Any, step: Step, prompts: list[list[int]], *, limit: int, ends: set[int]) -> list[list[int]]:
    """Generate as the first runner: finished rows are removed, and the last row moves to the free place."""
    outputs: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    update: BatchUpdate | None = BatchUpdate(
        len(rows), [], [(row, None, prompts[row], outputs[row]) for row in rows], []
    )
    while rows:
        processor.update_state(update)
        logits = processor.apply(step([prompts[row] + outputs[row] for row in rows]))
        removed: list[int] = []
        for place, token in enumerate(logits.argmax(dim=-1).tolist()):
            outputs[rows[place]].append(token)
            if token in ends or len(outputs[rows[place]]) == limit:
                removed.append(place)
        moved = []
        left = {place: row for place, row in enumerate(rows) if place not in removed}
        for hole in removed:
            if (last := max(left, default=-1)) > hole:
                moved.append((last, hole, MoveDirectionality.UNIDIRECTIONAL))
                left[hole] = left.pop(last)
        if len(left) > 1:  # as a reordering for the attention backend
            moved.append((0, 1, MoveDirectionality.SWAP))
            left[0], left[1] = left[1], left[0]
        rows = [left[place] for place in sorted(left)]
        update = BatchUpdate(len(rows), removed, [], moved) if removed or moved else None
    return outputs


def states(rows: int, length: int) -> Any:
    """The buffers of `rows` request slots, as the second runner's processors see them."""
    return SimpleNamespace(
        all_token_ids=SimpleNamespace(gpu=torch.full((rows, length), -7, dtype=torch.int32)),
        prompt_len=SimpleNamespace(gpu=torch.zeros(rows, dtype=torch.int32)),
    )


def run_second(
    processor: Any, step: Step, prompts: list[list[int]], *, buffers: Any, limit: int, ends: set[int]
) -> list[list[int]]:
    """Generate as the second runner: the tokens are in the slots' buffers, and rows are in another order."""
    outputs: list[list[int]] = [[] for _ in prompts]
    for slot, prompt in enumerate(prompts):
        buffers.all_token_ids.gpu[slot, : len(prompt)] = torch.tensor(prompt, dtype=torch.int32)
        buffers.prompt_len.gpu[slot] = len(prompt)
        assert processor.add_request(slot, None)
    slots = list(range(len(prompts)))
    while slots:
        slots = slots[1:] + slots[:1]
        processor.apply_staged_writes()
        texts = [prompts[slot] + outputs[slot] for slot in slots]
        context = SimpleNamespace(
            expanded_idx_mapping=torch.tensor(slots, dtype=torch.int32),
            pos=torch.tensor([len(text) - 1 for text in texts]),
            input_ids=torch.tensor([text[-1] for text in texts]),
        )
        chosen = processor.apply(step(texts), context).argmax(dim=-1).tolist()
        for slot, text, token in zip(list(slots), texts, chosen, strict=True):
            outputs[slot].append(token)
            buffers.all_token_ids.gpu[slot, len(text)] = token
            if token in ends or len(outputs[slot]) == limit:
                slots.remove(slot)
    return outputs
