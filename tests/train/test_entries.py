from math import log

import pytest
import torch
from torch import nn

from derta.data.train_row import Anchor
from derta.train import cross_entropy
from derta.train import loss as label_loss
from derta.train.cross_entropy import LabelCrossEntropy
from derta.train.entries import Extras, build_entries
from derta.train.head import Head
from tolerances import sum_tolerance

pytestmark = pytest.mark.equality
REFUSALS = torch.tensor([3, 4])
PLAIN = Head()


def entries_of(targets, *, alternatives=None, anchors=(), anchor_weights=None):
    return build_entries(
        targets,
        alternatives=[()] * len(targets) if alternatives is None else alternatives,
        anchors=anchors,
        anchor_weights=torch.zeros(len(targets)) if anchor_weights is None else anchor_weights,
    )


def by_hand(extras, *, target=0):
    """Loss, divergence and gradient at one label of three tokens with e = 1, 2, 5, so q = 1/8, 2/8, 5/8."""
    logits = torch.tensor([[0.0, log(2), log(5)]], requires_grad=True)
    weights, refusals = torch.ones(1), torch.tensor([0])
    total, losses, _, divergences = LabelCrossEntropy.apply(
        logits, torch.eye(3), None, torch.tensor([target]), weights, refusals, Head(), torch.float32, None, extras
    )
    total.backward()
    return float(losses[0]), float(divergences[0]), logits.grad[0].tolist()


def test_a_set_of_targets_by_hand():
    """R = {0, 1}: q_R = 3/8. The gradient is q_j - q_j / q_R in the set, 1/8 - 1/3 and 2/8 - 2/3, and 5/8 outside."""
    extras = Extras(entries=entries_of(torch.tensor([0]), alternatives=[(1,)]))
    loss, divergence, gradient = by_hand(extras)
    assert loss == pytest.approx(log(8 / 3), rel=1e-6)
    assert divergence == 0
    assert gradient == pytest.approx([-5 / 24, -5 / 12, 5 / 8], rel=1e-6)


@pytest.mark.parametrize("alternatives", [None, (1,)])
def test_a_margin_stops_the_push_where_the_targets_are_likely_enough(alternatives):
    """The targets' probability is 1/8 alone and 3/8 together: a margin just below it stops them, one above does not."""
    probability = 1 / 8 if alternatives is None else 3 / 8
    entries = None if alternatives is None else entries_of(torch.tensor([0]), alternatives=[alternatives])

    def step(margin):
        return by_hand(Extras(torch.tensor([-log(margin)]), entries))

    assert step(0.99 * probability) == (0, 0, [0, 0, 0])
    assert step(1.01 * probability) == by_hand(Extras(None, entries))
    assert step(1.01 * probability)[0] == pytest.approx(-log(probability), rel=1e-6)


@pytest.mark.parametrize("target", [0, 2])
def test_an_anchor_by_hand(target):
    """The base gives token 2 a half, and the tail the other half; q has 5/8 and 3/8.

    The gradient of the divergence is 5/8 - 1/2 = 1/8 at the stored token, and q_j (1 - (1/2) / (3/8)) = -q_j / 3 in the
    tail. With a weight of 3, three times that is added to the loss's own q_j - [j = target].
    """
    anchor = Anchor(torch.tensor([[2]]), torch.tensor([[0.5]]))
    entries = entries_of(torch.tensor([target]), anchors=[anchor], anchor_weights=torch.tensor([3.0]))
    loss, divergence, gradient = by_hand(Extras(entries=entries), target=target)
    assert loss == pytest.approx(log(8) if target == 0 else log(8 / 5), rel=1e-6)
    assert divergence == pytest.approx(0.5 * log(4 / 5) + 0.5 * log(4 / 3), rel=1e-5)
    own = [1 / 8 - (target == 0), 2 / 8, 5 / 8 - (target == 2)]
    assert gradient == pytest.approx([own[0] - 3 / 24, own[1] - 3 / 12, own[2] + 3 / 8], abs=1e-6)


def random_case(*, vocab, labels=20, scale=1.0, k=4):
    """Every third label has a set of targets with a margin, every third an anchor, and every third one target only."""
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(labels, 8), torch.randn(vocab, 8) * scale, torch.randn(vocab) * scale
    tokens = torch.stack([torch.randperm(vocab)[: k + 1] for _ in range(labels)])
    kinds = torch.arange(labels) % 3
    targets = torch.where(kinds == 1, tokens[:, torch.arange(labels) % 2 * k].diagonal(), tokens[:, k])
    alternatives = [tuple(tokens[i, :2].tolist()) if kinds[i] == 0 else () for i in range(labels)]
    base = torch.randn(labels, vocab, dtype=torch.float64).mul(2).softmax(dim=-1)
    stored = tokens[kinds == 1, :k]
    anchors = [Anchor(stored, base[kinds == 1].gather(1, stored).float())]
    anchor_weights = torch.where(kinds == 1, torch.rand(labels) + 0.1, 0)
    floors = torch.where((kinds == 0) & (torch.arange(labels) % 2 == 0), 6.0, -1.0)
    entries = entries_of(targets, alternatives=alternatives, anchors=anchors, anchor_weights=anchor_weights)
    return (hidden, weight, bias), targets, torch.rand(labels), Extras(floors, entries)


def reference(inputs, targets, weights, extras, head):
    """The formula in plain torch, one label at a time, in float64."""
    hidden, weight, bias = (tensor.double().requires_grad_() for tensor in inputs)
    scores = hidden @ weight.T + bias
    scaled = scores * head.logit_scale
    cap = head.final_logit_softcapping
    log_q = (scaled if cap is None else torch.tanh(scaled / cap) * cap).log_softmax(dim=-1)
    total, losses, divergences = 0, [], []
    for i in range(len(targets)):
        mine = extras.entries.labels == i
        ids, in_set = extras.entries.ids[mine], extras.entries.in_set[mine]
        p = extras.entries.base_probs[mine].double()
        loss = -log_q[i, ids[in_set]].logsumexp(dim=0)
        loss = loss * float(loss.detach() > extras.floors[i])
        divergence = torch.zeros(())
        if extras.entries.anchor_weights[i] > 0:
            stored, tail = p > 0, 1 - p.sum()
            inside = torch.zeros(log_q.shape[1], dtype=torch.bool).index_fill(0, ids[stored], True)
            divergence = (p[stored] * (p[stored].log() - log_q[i, ids[stored]])).sum()
            divergence = divergence + tail * (tail.log() - log_q[i, ~inside].logsumexp(dim=0))
        total = total + weights[i] * loss + extras.entries.anchor_weights[i] * divergence
        losses.append(float(loss.detach()))
        divergences.append(float(divergence.detach()))
    total.backward()
    return float(total.detach()), losses, divergences, [hidden.grad, weight.grad, bias.grad]


def fused(inputs, targets, weights, extras, head=PLAIN, *, dtype=torch.float32):
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    total, losses, _, divergences = LabelCrossEntropy.apply(
        *inputs, targets, weights, REFUSALS, head, dtype, None, extras
    )
    total.backward()
    return float(total.detach()), losses, divergences, [tensor.grad for tensor in inputs]


def any_head(inputs, targets, weights, extras, head):
    """The same with a head that is not patched, as adapters and quantization have."""
    hidden, lm_head = inputs[0].clone().requires_grad_(), nn.Linear(*reversed(inputs[1].shape))
    lm_head.weight.data, lm_head.bias.data = inputs[1].clone(), inputs[2].clone()
    found = label_loss.label_losses(
        lm_head, hidden, targets, weights=weights, refusal_ids=REFUSALS, head=head, patched=False, extras=extras
    )
    found.total.backward()
    grads = [hidden.grad, lm_head.weight.grad, lm_head.bias.grad]
    return float(found.total.detach()), found.losses, found.divergences, grads


@pytest.mark.parametrize("way", [fused, any_head])
@pytest.mark.parametrize("head", [Head(), Head(logit_scale=0.5), Head(final_logit_softcapping=3.0)])
@pytest.mark.parametrize(("vocab", "positions"), [(60, 20), (200, 20), (200, 3)])  # one block; four; seven chunks too
def test_sets_margins_and_anchors_equal_the_formula_in_plain_torch(monkeypatch, way, head, vocab, positions):
    monkeypatch.setattr(cross_entropy, "BLOCK_SCORES", 1)
    for module in (cross_entropy, label_loss):
        monkeypatch.setattr(module, "MAX_CHUNK_BYTES", positions * vocab * 4)
    case = random_case(vocab=vocab)
    expected, found = reference(*case, head), way(*case, head)
    assert 0 in expected[1]  # a margin stopped some
    assert all(value > 0 for value in expected[2][1::3])
    scale = max(map(abs, expected[1] + expected[2]))
    bound = sum_tolerance(torch.float32, 2 * 8 + vocab, scale)
    assert found[0] == pytest.approx(expected[0], abs=20 * bound)
    assert found[1].tolist() == pytest.approx(expected[1], abs=bound)
    assert found[2].tolist() == pytest.approx(expected[2], abs=bound)
    for ours, exact in zip(found[3], expected[3], strict=True):
        largest = float(exact.abs().max())
        assert torch.allclose(ours.double(), exact, rtol=0, atol=sum_tolerance(torch.float32, 2 * 8 + vocab, largest))


@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_entries_whose_probabilities_underflow_have_finite_losses_and_gradients(monkeypatch, scale):
    monkeypatch.setattr(cross_entropy, "BLOCK_SCORES", 1)
    inputs, targets, weights, extras = random_case(vocab=200, scale=scale)
    inputs[1][:64] *= 1e-3  # the first block tells nothing of the others
    expected = reference(inputs, targets, weights, extras, Head())
    found = fused(inputs, targets, weights, extras, Head())
    assert max(expected[1]) > 2 * scale
    for ours, exact in zip(found[1:3], expected[1:3], strict=True):
        assert ours.tolist() == pytest.approx(exact, rel=1e-5)
    for ours, exact in zip(found[3], expected[3], strict=True):
        assert torch.allclose(ours.double(), exact, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_sets_and_anchors_stay_as_close_as_their_inputs_allow(monkeypatch, dtype):
    monkeypatch.setattr(cross_entropy, "BLOCK_SCORES", 1)
    inputs, targets, weights, extras = random_case(vocab=200, scale=0.5)
    inputs = tuple(tensor.to(dtype).float() for tensor in inputs)
    expected = reference(inputs, targets, weights, extras, Head())
    found = fused(inputs, targets, weights, extras, dtype=dtype)
    assert found[1].tolist() == pytest.approx(expected[1], rel=0.02, abs=0.02)
    assert found[2].tolist() == pytest.approx(expected[2], rel=0.02, abs=0.02)
    for ours, exact in zip(found[3], expected[3], strict=True):
        assert float((ours - exact).norm() / exact.norm()) < 0.01


def test_in_fp16_sums_over_a_large_vocabulary_do_not_overflow_with_entries():
    vocab = 70_000
    inputs = torch.zeros(2, 2), torch.full((vocab, 2), 1.0), torch.zeros(vocab)
    targets, anchor = torch.tensor([0, vocab - 1]), Anchor(torch.tensor([[7]]), torch.tensor([[0.5]]))
    entries = entries_of(targets, alternatives=[(5,), ()], anchors=[anchor], anchor_weights=torch.tensor([0.0, 1.0]))
    case = inputs, targets, torch.ones(2), Extras(torch.full((2,), -1.0), entries)
    expected, found = reference(*case, Head()), fused(*case, dtype=torch.float16)
    assert found[1].tolist() == pytest.approx(expected[1], rel=1e-3)
    assert found[2].tolist() == pytest.approx(expected[2], rel=1e-3)
    assert torch.allclose(found[3][0].double(), expected[3][0], rtol=1e-2, atol=5e-3)


def test_one_target_as_an_entry_equals_the_usual_loss():
    (hidden, weight, bias), targets, weights, _ = random_case(vocab=200)
    usual = fused((hidden, weight, bias), targets, weights, Extras(), Head())
    found = fused((hidden, weight, bias), targets, weights, Extras(entries=entries_of(targets)), Head())
    assert found[1].tolist() == pytest.approx(usual[1].tolist(), rel=1e-5)
    for ours, stock in zip(found[3], usual[3], strict=True):
        assert torch.allclose(ours, stock, rtol=1e-4, atol=1e-6)


def test_an_anchor_at_the_base_itself_has_no_loss_and_no_gradient():
    (hidden, weight, bias), targets, _, _ = random_case(vocab=60)
    probs, ids = (hidden @ weight.T + bias).softmax(dim=-1).topk(5)
    entries = entries_of(targets, anchors=[Anchor(ids, probs)], anchor_weights=torch.ones(20))
    _, _, divergences, grads = fused((hidden, weight, bias), targets, torch.zeros(20), Extras(entries=entries), Head())
    assert divergences.abs().max() < sum_tolerance(torch.float32, 2 * 8 + 60)
    assert max(float(grad.abs().max()) for grad in grads) < sum_tolerance(torch.float32, 2 * 8 + 60, scale=20)
