import pytest
import torch

from derta.errors import ModelError
from derta.train.head import Head, check_head, head_of


def test_heads_are_read_from_their_configs(model_of):
    assert head_of(model_of("llama").config) == Head()
    assert head_of(model_of("gemma2").config) == Head(final_logit_softcapping=5.0)
    assert head_of(model_of("cohere").config) == Head(logit_scale=0.25)
    assert head_of(model_of("granite").config) == Head(logit_scale=0.25)


@pytest.mark.parametrize("size", [1.0, 1e-4])
def test_a_head_that_is_not_as_its_config_says_is_refused(model_of, size):
    model = model_of("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(size)
    stock = model.forward

    def surprising(**inputs):
        found = stock(**inputs)
        found.logits = found.logits * 1.1
        return found

    model.forward = surprising
    with pytest.raises(ModelError, match=r"logits that are lm_head's output with a scale .* got others from LlamaFor"):
        check_head(model)


def test_checking_a_head_leaves_the_model_in_its_mode(model_of):
    for training in (True, False):
        model = model_of("llama").train(training)
        check_head(model)
        assert model.training is training
