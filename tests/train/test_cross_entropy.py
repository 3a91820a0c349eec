import pytest
import torch
from one_step import REFUSALS, assert_close, our_step
from torch import nn

from derta.train import cross_entropy
from derta.train.cross_entropy import LabelCrossEntropy
from derta.train.head import Head
from tolerances import step_tolerance, sum_tolerance

pytestmark = pytest.mark.equality


def cross_entropy_by_hand(hidden, weight, targets):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    losses = nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    losses.sum().backward()
    return losses.detach(), hidden.grad, weight.grad


def ours(hidden, weight, targets, *, dtype=torch.float32, refusal_ids=REFUSALS):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    total, losses, refusing, _ = LabelCrossEntropy.apply(
        hidden, weight, None, targets, torch.ones(len(targets)), torch.tensor(refusal_ids), Head(), dtype, None
    )
    total.backward()
    return losses, hidden.grad, weight.grad, refusing


@pytest.mark.parametrize("vocab", [100, 200])  # two blocks and four
@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_logits_far_apart_neither_overflow_nor_underflow(monkeypatch, scale, vocab):
    """At 300 the highest logit lies hundreds above the first block's, and targets hundreds below it."""
    monkeypatch.setattr(cross_entropy, "BLOCK_SCORES", 1)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(20, 8), torch.randn(vocab, 8) * scale, torch.randint(0, vocab, (20,))
    weight[:64] *= 1e-3  # the first block tells nothing of the others
    expected = cross_entropy_by_hand(hidden, weight, targets)
    assert float(expected[0].max()) > 2 * scale
    losses, grad_hidden, grad_weight, refusing = ours(hidden, weight, targets)
    assert torch.allclose(losses, expected[0], rtol=1e-5)
    assert torch.allclose(grad_hidden, expected[1], rtol=1e-4, atol=1e-5 * scale)
    assert torch.allclose(grad_weight, expected[2], rtol=1e-4, atol=1e-5)
    assert torch.isfinite(refusing).all()


def test_every_token_is_learned_as_a_target_also_at_the_edges_of_the_blocks(monkeypatch):
    monkeypatch.setattr(cross_entropy, "BLOCK_SCORES", 1)  # blocks of 64, 64 and 22 tokens
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(150, 8), torch.randn(150, 8), torch.arange(150)
    losses, grad_hidden, grad_weight, refusing = ours(hidden, weight, targets)
    expected = cross_entropy_by_hand(hidden, weight, targets)
    assert torch.allclose(losses, expected[0], rtol=1e-4, atol=1e-5)
    assert torch.allclose(grad_hidden, expected[1], rtol=1e-4, atol=1e-5)
    assert torch.allclose(grad_weight, expected[2], rtol=1e-4, atol=1e-4)
    assert torch.allclose(refusing, (hidden @ weight.T).softmax(dim=-1)[:, list(REFUSALS)].sum(dim=1), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sure", [0.0, 6.0])
def test_in_16_bits_the_losses_and_gradients_stay_as_close_as_their_inputs_allow(monkeypatch, dtype, sure):
    """`sure`: how far the target stands out; where it is nearly certain, its gradient is a small difference."""
    monkeypatch.setattr(cross_entropy, "BLOCK_SCORES", 1)
    torch.manual_seed(0)
    targets = torch.randint(0, 200, (50,))
    weight = (torch.randn(200, 16) * 0.5).to(dtype).float()
    hidden = (torch.randn(50, 16) + sure * nn.functional.normalize(weight[targets])).to(dtype).float()
    expected = cross_entropy_by_hand(hidden, weight, targets)
    losses, grad_hidden, grad_weight, _ = ours(hidden, weight, targets, dtype=dtype)
    assert bool((losses >= 0).all())
    assert torch.allclose(losses, expected[0], rtol=0.02, atol=0.02)
    for found, wanted in ((grad_hidden, expected[1]), (grad_weight, expected[2])):
        assert float((found - wanted).norm() / wanted.norm()) < 0.01


def test_in_fp16_sums_over_a_large_vocabulary_do_not_overflow():
    """All 70,000 tokens are equally likely: the sum of their exponentials is above fp16's 65,504, as is a gradient."""
    hidden, weight, targets = torch.zeros(2, 2), torch.full((70_000, 2), 1.0), torch.tensor([0, 69_999])
    weight[0] = 0.0
    expected = cross_entropy_by_hand(hidden, weight, targets)
    losses, grad_hidden, _, _ = ours(hidden, weight, targets, dtype=torch.float16)
    assert torch.allclose(losses, expected[0], rtol=1e-3)
    assert torch.allclose(grad_hidden, expected[1], rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize("head", [Head(), Head(logit_scale=0.5), Head(final_logit_softcapping=3.0)])
@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_a_bias_is_part_of_every_logit_also_of_a_target_whose_probability_underflows(head, spread):
    torch.manual_seed(0)
    targets = torch.randint(0, 70, (20,))
    inputs = [torch.randn(20, 8), torch.randn(70, 8), torch.randn(70) * spread]
    hidden, weight, bias = (tensor.clone().requires_grad_() for tensor in inputs)
    logits = head(hidden @ weight.T + bias)
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    losses.sum().backward()
    if spread > 1 and head.final_logit_softcapping is None:
        assert float(losses.detach().max()) > 200  # its exponential is 0 in fp32
    our_hidden, our_weight, our_bias = (tensor.clone().requires_grad_() for tensor in inputs)
    total, our_losses, refusing, _ = LabelCrossEntropy.apply(
        our_hidden, our_weight, our_bias, targets, torch.ones(20), torch.tensor(REFUSALS), head, torch.float32, None
    )
    total.backward()
    assert torch.allclose(our_losses, losses, rtol=1e-5, atol=1e-5)
    assert torch.allclose(refusing, logits.softmax(dim=-1)[:, list(REFUSALS)].sum(dim=1), rtol=1e-4, atol=1e-6)
    for ours, stock in ((our_hidden, hidden), (our_weight, weight), (our_bias, bias)):
        assert torch.allclose(ours.grad, stock.grad, rtol=1e-4, atol=1e-5 * max(1.0, float(stock.grad.abs().max())))


def test_weights_scale_the_total_and_the_gradients_of_their_positions_and_not_the_losses():
    torch.manual_seed(0)
    inputs = torch.randn(6, 8), torch.randn(70, 8), torch.randn(70)
    targets, weights = torch.randint(0, 70, (6,)), torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 4.0])
    hidden, weight, bias = (tensor.clone().requires_grad_() for tensor in inputs)
    losses = nn.functional.cross_entropy(hidden @ weight.T + bias, targets, reduction="none")
    (losses * weights).sum().backward()
    ours = [tensor.clone().requires_grad_() for tensor in inputs]
    total, our_losses, refusing, _ = LabelCrossEntropy.apply(
        *ours, targets, weights, torch.tensor(REFUSALS), Head(), torch.float32, None
    )
    total.backward()
    assert float(total.detach()) == pytest.approx(float((losses * weights).sum().detach()), rel=1e-5)
    assert torch.allclose(our_losses, losses, rtol=1e-5)
    assert not our_losses.requires_grad
    assert not refusing.requires_grad
    for found, expected in zip(ours, (hidden, weight, bias), strict=True):
        assert torch.allclose(found.grad, expected.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("room", "sizes"), [(3 * 70 * 4, [3, 3, 1]), (3 * 70 * 4 - 1, [2, 2, 2, 1]), (1, [1] * 7)])
def test_the_logits_of_a_chunk_of_positions_fit_into_their_memory(monkeypatch, room, sizes):
    found = []
    stock = cross_entropy._chunk

    def chunk(projection, states, *rest, **named):
        found.append(len(states))
        return stock(projection, states, *rest, **named)

    monkeypatch.setattr(cross_entropy, "_chunk", chunk)
    monkeypatch.setattr(cross_entropy, "MAX_CHUNK_BYTES", room)
    ours(torch.randn(7, 8), torch.randn(70, 8), torch.randint(0, 70, (7,)))
    assert found == sizes


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_each_block_is_multiplied_once_and_again_only_after_an_overflow(monkeypatch, scale):
    monkeypatch.setattr(cross_entropy, "BLOCK_SCORES", 1)
    products, stock = [], cross_entropy._Projection.scores

    def scores(projection, states, rows):
        if isinstance(rows, slice):
            products.append(rows.start)
        return stock(projection, states, rows)

    monkeypatch.setattr(cross_entropy._Projection, "scores", scores)
    torch.manual_seed(0)
    weight = torch.randn(200, 8) * scale
    weight[:64] *= 1e-3  # at 300, the shift of the first block is too small for the others
    ours(torch.randn(20, 8), weight, torch.randint(0, 64, (20,)))
    blocks = [0, 64, 128, 192]
    assert products == (blocks if scale == 1 else [*blocks, *blocks[1:], *blocks])


def test_a_block_of_the_weights_is_cast_when_it_is_used_and_the_limits_are_those_of_the_docs(monkeypatch):
    dtypes, stock = [], cross_entropy._chunk

    def chunk(projection, states, *rest, **named):
        dtypes.append((projection.matrix.dtype, projection.part(slice(0, 2)).dtype, states.dtype))
        return stock(projection, states, *rest, **named)

    monkeypatch.setattr(cross_entropy, "_chunk", chunk)
    ours(torch.randn(7, 8), torch.randn(70, 8), torch.randint(0, 70, (7,)), dtype=torch.bfloat16)
    assert dtypes == [(torch.float32, torch.bfloat16, torch.bfloat16)]
    assert 1024 * 262_144 * torch.bfloat16.itemsize == cross_entropy.MAX_CHUNK_BYTES  # positions of Gemma's vocabulary
    assert cross_entropy.BLOCK_SCORES * torch.bfloat16.itemsize == 4 * 2**20


@pytest.mark.parametrize(
    ("positions", "dtype", "widths"),
    [
        (1, torch.float32, [1984, 1016]),
        (1, torch.float32, [200]),
        (10, torch.float32, [192, 8]),  # 2,000 scores are 200 tokens of 10 positions, rounded down to a multiple of 64
        (20, torch.bfloat16, [64, 64, 64, 8]),
        (1000, torch.float32, [64, 64, 64, 8]),  # no block is narrower
        (0, torch.float32, [200]),
        (1000, torch.float16, [200]),  # its sums need the maximum of all logits
    ],
)
def test_the_scores_of_a_block_of_the_vocabulary_fit_into_a_cache(monkeypatch, positions, dtype, widths):
    monkeypatch.setattr(cross_entropy, "BLOCK_SCORES", 2000)
    blocks = cross_entropy._Projection(torch.zeros(sum(widths), 8), None, Head(), dtype).blocks(positions)
    assert [place.stop - place.start for place in blocks] == widths
    assert [place.start for place in blocks] == [sum(widths[:i]) for i in range(len(widths))]


def test_a_loss_scaled_afterwards_scales_its_gradients():
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 8).requires_grad_(), torch.randn(70, 8).requires_grad_()
    targets = torch.randint(0, 70, (5,))
    total, *_ = LabelCrossEntropy.apply(
        hidden, weight, None, targets, torch.ones(5), torch.tensor(REFUSALS), Head(), torch.float32, None
    )
    (3 * total).backward()
    _, grad_hidden, grad_weight = cross_entropy_by_hand(hidden.detach(), weight.detach(), targets)
    for found, expected in ((hidden.grad, 3 * grad_hidden), (weight.grad, 3 * grad_weight)):
        tolerance = sum_tolerance(torch.float32, 2 * 8 + 70, float(expected.abs().max()))
        assert torch.allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_several_chunks_equal_one(model_of, some_rows, monkeypatch, name):
    whole, whole_grads = our_step(model_of(name), some_rows)
    monkeypatch.setattr(cross_entropy, "MAX_CHUNK_BYTES", 4 * (7 * 96 + 1))
    parts, part_grads = our_step(model_of(name), some_rows)
    for sums in ("loss_sums", "refusal_sum"):
        assert torch.allclose(getattr(whole, sums), getattr(parts, sums), rtol=step_tolerance(), atol=0)
    assert_close(part_grads, whole_grads)


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite"])
def test_several_blocks_of_the_vocabulary_equal_one(model_of, some_rows, monkeypatch, name):
    whole, whole_grads = our_step(model_of(name), some_rows)
    monkeypatch.setattr(cross_entropy, "BLOCK_SCORES", 1)  # 64 of 96 tokens, then 32
    parts, part_grads = our_step(model_of(name), some_rows)
    for sums in ("loss_sums", "refusal_sum"):
        assert torch.allclose(getattr(whole, sums), getattr(parts, sums), rtol=step_tolerance(), atol=0)
    assert_close(part_grads, whole_grads)
