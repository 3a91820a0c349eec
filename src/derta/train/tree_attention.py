"""Tree attention: masks that let a node attend only to its ancestors, for sdpa and flex_attention.

sdpa takes a dense bool mask on every device. flex_attention skips empty blocks, on GPUs. Eager attention would add a
bool mask to its scores as numbers, without an error, so it is refused.
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
    """Return a mask function for flex_attention: node i attends to node j if j is i or an ancestor within `window`.

    Args:
        ends: End of each node's subtree.
        position_ids: Depth of each node.
        window: Number of tokens a sliding-window layer attends to, including the token itself; None: all.
    """

    @no_type_check  # flex_attention counts its parameters, which a type checker's wrapper would hide
    def visible(b: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        del head
        ancestor = (j <= i) & (i < ends[b, j])
        return ancestor if window is None else ancestor & (position_ids[b, i] - position_ids[b, j] < window)

    return visible


def dense_mask(
    visible: Visible, *, num_bins: int, num_tokens: int, device: torch.device
) -> Bool[Tensor, "bin 1 token token"]:
    """Return the dense bool mask for sdpa."""
    b = torch.arange(num_bins, device=device)[:, None, None]
    place = torch.arange(num_tokens, device=device)
    return visible(b, b, place[None, :, None], place[None, None, :])[:, None]


def block_mask(visible: Visible, *, num_bins: int, num_tokens: int, device: torch.device) -> BlockMask:
    """Return the block mask for flex_attention."""
    return create_block_mask(visible, num_bins, None, num_tokens, num_tokens, device=device)


MASKS: dict[str, Callable[..., Mask]] = {"sdpa": dense_mask, "flex_attention": block_mask}


def layer_windows(config: Any) -> dict[str, int | None]:
    """Return the sliding window of each layer type of a model; None: layers of this type attend to all tokens.

    Source: the forwards of transformers 5.23: `layer_types` names the type of each layer (Gemma, Qwen); without it one
    `sliding_window` applies to all (Mistral, Phi-3), or there is none (Llama).

    Raises:
        ModelError: a layer type that does not support trees (recurrent, chunked, compressed).
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
    """Return the attention mask of a batch with trees; a dict by layer type if the model has several.

    Args:
        config: The model's config, with the attention implementation and the windows.
        ends: As in `Batch`.
        position_ids: As in `Batch`.
    """
    build_mask = MASKS[config.get_text_config()._attn_implementation]
    num_bins, num_tokens = ends.shape
    masks = {
        kind: build_mask(
            visible_nodes(ends, position_ids, window=window),
            num_bins=num_bins,
            num_tokens=num_tokens,
            device=ends.device,
        )
        for kind, window in layer_windows(config).items()
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def check_trees(model: PreTrainedModel, *, max_length: int) -> None:
    """Validate that this model's outputs on a tree equal its outputs on each of the tree's rows.

    The test rows are longer than the sliding window, if `max_length` is.

    Raises:
        ModelError: the attention implementation takes no custom mask, or the outputs differ.
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
        difference, tolerance = _difference(model, rows)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"train.tree_rows: {type(model).__name__} does not support the mask that its config requires "
            f"({' '.join(str(error).split()):.200}); set `train.tree_rows: false`"
        ) from error
    finally:
        model.train(was_training)
    if not difference <= tolerance:  # also true for NaN
        raise ModelError(
            f"train.tree_rows: expected {type(model).__name__} to give the same states for a tree as for its rows, got "
            f"states that differ by {difference:.2g} of their size; set `train.tree_rows: false`"
        )


def _probe_rows(length: int, *, vocab: int) -> list[TrainRow]:
    """Return a trunk, and branches that diverge near its end, in its middle and near its start."""
    trunk = [i * 5 % vocab for i in range(length)]
    branches = [[*trunk[:k], *((k + i * 7 + 3) % vocab for i in range(8))] for k in (length - 8, length // 2, 2)]
    return [TrainRow("probe", "safe", ids, [IGNORE, *ids[1:]]) for ids in (trunk, *branches)]


def _difference(model: PreTrainedModel, rows: Sequence[TrainRow]) -> tuple[float, float]:
    """Return the relative difference between the states on a tree and on its rows, and the tolerance for rounding."""
    tree = tree_of(rows)
    device = next(model.parameters()).device
    trunk: Any = model.get_decoder()
    position_ids = torch.tensor([tree.position_ids], device=device)
    mask = tree_mask(model.config, ends=torch.tensor([tree.ends], device=device), position_ids=position_ids)
    inputs = {"position_ids": position_ids, "attention_mask": mask, "use_cache": False}
    with torch.no_grad():
        states = trunk(input_ids=torch.tensor([tree.input_ids], device=device), **inputs).last_hidden_state[0]
        row_states = [
            trunk(input_ids=torch.tensor([row.input_ids], device=device), use_cache=False).last_hidden_state[0, :-1]
            for row in rows
        ]
    expected = torch.cat(row_states).float()
    actual = states[[label.node for label in tree.labels]].float()
    return float((actual - expected).norm() / expected.norm()), 1e-4 if states.dtype == torch.float32 else 5e-2
