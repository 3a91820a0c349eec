import pytest
import torch

from derta.chat import Turn
from derta.engines.scoring import score
from tolerances import logit_tolerance, sum_tolerance

pytestmark = pytest.mark.equality


REFUSALS = (7, 301)
SIZES = ((1, 5), (30, 1), (4, 0), (12, 26), (9, 18), (33, 3))


@pytest.fixture(scope="module")
def turns():
    rng = torch.Generator().manual_seed(2)
    draw = lambda length: torch.randint(0, 440, (length,), generator=rng).tolist()  # noqa: E731
    return [Turn(draw(asked), draw(answered), []) for asked, answered in SIZES]


def one_plain_pass(model, turn):
    """Log-probabilities of the response, refusal probabilities and logits from one unpadded pass without a cache."""
    ids = turn.prompt_ids + turn.response_ids
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    log_probs = logits.log_softmax(dim=-1)
    first = len(turn.prompt_ids) - 1
    likelihood = [log_probs[first + i, token].item() for i, token in enumerate(turn.response_ids)]
    return likelihood, log_probs[first:, list(REFUSALS)].exp().sum(dim=-1).tolist(), logits


@pytest.mark.parametrize("max_logits", [2**26, 460 * 4])
@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3", "mistral", "gpt2"])
def test_batches_and_chunks_return_the_scores_of_one_forward_pass(make_model, turns, kind, max_logits):
    model = make_model(kind, vocab_size=460)
    results = {scored.row: scored for scored in score(model, turns, refusal_ids=REFUSALS, max_logits=max_logits)}
    assert sorted(results) == list(range(len(turns)))
    for row, turn in enumerate(turns):
        likelihood, refusal, logits = one_plain_pass(model, turn)
        tolerance = logit_tolerance(logits)
        assert results[row].log_probs == pytest.approx(likelihood, abs=tolerance)
        assert results[row].refusal_probs == pytest.approx(refusal, rel=tolerance)
        assert len(results[row].refusal_probs) == len(turn.response_ids) + 1


def test_logits_in_memory_are_limited_to_max_logits(make_model, turns):
    model = make_model("llama", vocab_size=460)
    shapes = []
    hook = model.lm_head.register_forward_hook(lambda _module, _args, logits: shapes.append(logits.shape))
    list(score(model, turns, refusal_ids=REFUSALS, max_logits=460 * 8))
    hook.remove()
    # the prompts' pass keeps one place of each row, the others as many as fit
    assert shapes[0] == (len(turns), 1, 460)
    assert all(rows * places <= 8 for rows, places, _ in shapes)


def test_the_probabilities_of_all_tokens_sum_to_one(make_model, turns):
    for scored in score(make_model("llama", vocab_size=460), turns, refusal_ids=range(460)):
        assert scored.refusal_probs == pytest.approx(
            [1.0] * len(scored.refusal_probs), abs=sum_tolerance(torch.float32, 460)
        )
