"""Attention over trees: masks that let a node see its ancestors and nothing else, in the form each model takes them in.

sdpa takes a dense bool mask everywhere; flex_attention skips the blocks that are empty, on GPUs. Eager attention adds a
bool mask to its scores as if it were numbers and says nothing, so it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, no_type_check

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PreTrainedModel

from derta.data.rows import IGNORE, TrainRow
from derta.data.tree import tree_of
from derta.errors import ModelError
from derta.train.distributed import holds_weights

Mask = Tensor | BlockMask
Visible = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def visible_nodes(
    ends: Int[Tensor, "bin token"], position_ids: Int[Tensor, "bin token"], *, window: int | None
) -> Visible:
    """Whether node i sees node j: an ancestor of its or itself, less than `window` above it, as flex_attention asks it.

    Args:
        ends: Where the subtree of each node ends.
        position_ids: Depths.
        window: Tokens that a sliding-window layer sees, the token itself included; None: all.
    """

    @no_type_check  # flex_attention counts its parameters, which a checker would hide
    def visible(b: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        del head
        seen = (j <= i) & (i < ends[b, j])
        return seen if window is None else seen & (position_ids[b, i] - position_ids[b, j] < window)

    return visible


def dense_mask(
    visible: Visible, *, num_bins: int, num_tokens: int, device: torch.device
) -> Bool[Tensor, "bin 1 token token"]:
    """The mask for sdpa."""
    b = torch.arange(num_bins, device=device)[:, None, None]
    place = torch.arange(num_tokens, device=device)
    return visible(b, b, place[None, :, None], place[None, None, :])[:, None]


def block_mask(visible: Visible, *, num_bins: int, num_tokens: int, device: torch.device) -> BlockMask:
    """The same for flex_attention."""
    return create_block_mask(visible, num_bins, None, num_tokens, num_tokens, device=device)


MASKS: dict[str, Callable[..., Mask]] = {"sdpa": dense_mask, "flex_attention": block_mask}


def layer_windows(config: Any) -> dict[str, int | None]:
    """The sliding window of each kind of attention layer that a model has; None: a layer of this kind sees all.

    Source: the forwards of transformers 5.23: `layer_types` tells the layers apart (Gemma, Qwen); without it one
    `sliding_window` holds for all (Mistral, Phi-3), or there is none (Llama).

    Raises:
        ModelError: a layer is of a kind that a tree cannot go through (recurrent, chunked, compressed).
    """
    values = config.get_text_config().to_dict()
    window = values.get("sliding_window")
    windows = {"full_attention": None, "sliding_attention": window}
    kinds = values.get("layer_types") or ["sliding_attention" if window else "full_attention"]
    if unknown := sorted(set(kinds) - set(windows)):
        raise ModelError(
            f"train.tree_rows: expected layers of full or sliding-window attention, got {', '.join(unknown)} in "
            f"{type(config).__name__}; set `train.tree_rows: false`"
        )
    return {kind: windows[kind] for kind in sorted(set(kinds))}


def tree_mask(
    config: Any, *, ends: Int[Tensor, "bin token"], position_ids: Int[Tensor, "bin token"]
) -> Mask | dict[str, Mask]:
    """The attention mask of a batch with trees; by the kind of layer where a model has both kinds.

    Args:
        config: The model's; it names the attention implementation and the windows.
        ends: As `collate` gives them.
        position_ids: As `collate` gives them.
    """
    make = MASKS[config.get_text_config()._attn_implementation]
    num_bins, num_tokens = ends.shape
    masks = {
        kind: make(
            visible_nodes(ends, position_ids, window=window),
            num_bins=num_bins,
            num_tokens=num_tokens,
            device=ends.device,
        )
        for kind, window in layer_windows(config).items()
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def check_trees(model: PreTrainedModel, *, max_length: int) -> None:
    """Make sure that this model's outputs on a tree are its outputs on the tree's rows, each by itself.

    The rows are longer than the sliding window, if `max_length` is.

    Raises:
        ModelError: the attention takes no mask of ours, or the outputs differ.
    """
    config: Any = model.config.get_text_config()
    if config._attn_implementation not in MASKS:
        raise ModelError(
            f"train.tree_rows: expected attention by {' or '.join(MASKS)}, got {config._attn_implementation} "
            f"for {type(model).__name__}; set `attn_implementation`, or `train.tree_rows: false`"
        )
    windows = [window for window in layer_windows(config).values() if window is not None and window < max_length]
    if not holds_weights(model):
        return
    rows = _probe_rows(min(max_length, max(windows, default=0) + 32), vocab=int(config.vocab_size))
    was_training = model.training
    model.eval()
    try:
        difference, allowed = _difference(model, rows)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"train.tree_rows: {type(model).__name__} does not take the mask that its config asks for "
            f"({' '.join(str(error).split()):.200}); set `train.tree_rows: false`"
        ) from error
    finally:
        model.train(was_training)
    if not difference <= allowed:  # a NaN is no equality either
        raise ModelError(
            f"train.tree_rows: expected {type(model).__name__} to read a tree as it reads the tree's rows, got states "
            f"that differ by {difference:.2g} of their size; set `train.tree_rows: false`"
        )


def _probe_rows(length: int, *, vocab: int) -> list[TrainRow]:
    """A trunk, and branches that leave it near its end, in its middle and near its start."""
    trunk = [i * 5 % vocab for i in range(length)]
    branches = [[*trunk[:k], *((k + i * 7 + 3) % vocab for i in range(8))] for k in (length - 8, length // 2, 2)]
    return [TrainRow("probe", "safe", ids, [IGNORE, *ids[1:]]) for ids in (trunk, *branches)]


def _difference(model: PreTrainedModel, rows: Sequence[TrainRow]) -> tuple[float, float]:
    """How far the states on a tree are from those on its rows, relative to their size; and how far rounding may go."""
    tree = tree_of(rows)
    device = next(model.parameters()).device
    trunk: Any = model.get_decoder()
    position_ids = torch.tensor([tree.position_ids], device=device)
    mask = tree_mask(model.config, ends=torch.tensor([tree.ends], device=device), position_ids=position_ids)
    inputs = {"position_ids": position_ids, "attention_mask": mask, "use_cache": False}
    with torch.no_grad():
        states = trunk(input_ids=torch.tensor([tree.input_ids], device=device), **inputs).last_hidden_state[0]
        alone = [
            trunk(input_ids=torch.tensor([row.input_ids], device=device), use_cache=False).last_hidden_state[0, :-1]
            for row in rows
        ]
    expected = torch.cat(alone).float()
    found = states[[one.node for one in tree.labels]].float()
    return float((found - expected).norm() / expected.norm()), 1e-4 if states.dtype == torch.float32 else 5e-2
