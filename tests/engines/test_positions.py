"""Scores of each position against one plain forward pass."""

import pytest
import torch

from derta.engines import positions
from derta.engines.batching import NonFiniteLogitsError
from derta.engines.positions import position_scores
from tolerances import logit_tolerance

REFUSALS = (7, 301)
PROMPT, RESPONSE = [3, 14, 15, 92, 65], [35, 8, 97, 9, 32, 38, 46]


@pytest.mark.equality
@pytest.mark.parametrize("positions_at_once", [100, 3, 1])
@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3", "gpt2"])
def test_the_scores_are_those_of_one_forward_pass(make_model, monkeypatch, kind, positions_at_once):
    model = make_model(kind, vocab_size=460)
    monkeypatch.setattr(positions, "max_logits", lambda _device: 460 * positions_at_once)
    found = position_scores(model, PROMPT, RESPONSE, refusal_ids=REFUSALS, top=4)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT + RESPONSE]), use_cache=False).logits[0, len(PROMPT) - 1 :]
    probabilities = logits.softmax(dim=-1)
    tolerance = logit_tolerance(logits)
    assert len(found) == len(RESPONSE) + 1
    assert [one.refusal for one in found] == pytest.approx(
        probabilities[:, list(REFUSALS)].sum(dim=-1).tolist(), rel=tolerance
    )
    own = [probabilities[i, token].item() for i, token in enumerate(RESPONSE)]
    assert [one.chosen for one in found[:-1]] == pytest.approx(own, rel=tolerance)
    assert found[-1].chosen is None
    best = probabilities.topk(4, dim=-1)
    assert [[one.token_id for one in place.top] for place in found] == best.indices.tolist()
    for place, values in zip(found, best.values.tolist(), strict=True):
        assert [one.probability for one in place.top] == pytest.approx(values, rel=tolerance)


def test_an_empty_response_has_one_position(make_model):
    [only] = position_scores(make_model("llama", vocab_size=460), PROMPT, [], refusal_ids=REFUSALS, top=2)
    assert only.chosen is None
    assert len(only.top) == 2


def test_no_more_tokens_than_the_vocabulary_are_listed(make_model):
    [only] = position_scores(make_model("llama", vocab_size=310), PROMPT[:2], [], refusal_ids=REFUSALS, top=999)
    assert len(only.top) == 310
    assert sum(one.probability for one in only.top) == pytest.approx(1, abs=1e-5)


def test_a_model_in_training_mode_is_scored_without_dropout_and_left_in_it(make_model):
    model = make_model("llama", vocab_size=460, attention_dropout=0.5)
    quiet = position_scores(model, PROMPT, RESPONSE, refusal_ids=REFUSALS, top=1)
    model.train()
    assert position_scores(model, PROMPT, RESPONSE, refusal_ids=REFUSALS, top=1) == quiet
    assert model.training


def test_logits_that_are_no_numbers_are_an_error(make_model):
    model = make_model("llama", vocab_size=460)
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.raises(NonFiniteLogitsError):
        position_scores(model, PROMPT, RESPONSE, refusal_ids=REFUSALS, top=1)
