"""One training step of a model: by its own forward, a row at a time, and by ours."""

import torch

from derta.data.rows import IGNORE
from derta.train.collator import collate
from derta.train.loss import label_loss, use_label_loss
from tolerances import step_tolerance

REFUSALS = (3, 4)
FAMILIES = ("llama", "gemma3", "qwen3", "mistral")
SCALED = ("gemma2", "cohere", "granite")


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(ours, stock):
    """Equal within rounding errors, measured by the largest gradient."""
    assert set(ours) == set(stock)
    largest = max(float(grad.abs().max()) for grad in stock.values())
    assert largest > 0
    tolerance = step_tolerance(scale=largest)
    for name, grad in stock.items():
        assert float((ours[name] - grad).abs().max()) <= tolerance, name


def on_device(batch, device):
    """The same batch with its tensors on a device."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def stock_step(model, rows):
    """Mean loss over all labels by the model's own forward, one row at a time: nothing packed, nothing padded."""
    model.zero_grad()
    count = sum(label != IGNORE for row in rows for label in row.labels)
    total = 0.0
    for row in rows:
        learned = sum(label != IGNORE for label in row.labels)
        if learned:
            inputs, labels = (torch.tensor([ids], device=model.device) for ids in (row.input_ids, row.labels))
            loss = model(input_ids=inputs, labels=labels, use_cache=False).loss
            (loss * learned / count).backward()
            total += float(loss.detach()) * learned
    return total / count, gradients(model)


def our_step(model, rows, *, capacity=64):
    """The same with the label loss on packed rows."""
    use_label_loss(model, refusal_ids=REFUSALS)
    model.zero_grad()
    found = label_loss(model, on_device(collate(rows, capacity=capacity, pad_id=0), model.device))
    (found.loss / found.counts.sum().clamp(min=1)).backward()
    found.loss = found.loss.detach()
    return found, gradients(model)
