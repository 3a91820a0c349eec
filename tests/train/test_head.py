import math
from types import SimpleNamespace

import pytest
import torch

from derta.errors import ModelError
from derta.train.head import Head, check_head, head_of


def test_heads_are_read_from_their_configs(model_of):
    assert head_of(model_of("llama").config) == Head()
    assert head_of(model_of("gemma2").config) == Head(final_logit_softcapping=5.0)
    assert head_of(model_of("cohere").config) == Head(logit_scale=0.25)
    assert head_of(model_of("granite").config) == Head(logit_scale=0.25)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Head()),
        ({"logit_scale": 0.0, "logits_scaling": None, "final_logit_softcapping": 0.0}, Head()),  # unset in configs
        ({"lm_head_multiplier": 0.5}, Head(logit_scale=0.5)),
        ({"logit_scale": 2, "lm_head_multiplier": 3, "logits_scaling": 4}, Head(logit_scale=1.5)),
        ({"final_logit_softcapping": 30, "logit_scale": 2}, Head(logit_scale=2.0, final_logit_softcapping=30.0)),
    ],
)
def test_every_scale_of_a_config_is_multiplied_and_a_scaling_divides(values, expected):
    text_config = SimpleNamespace(to_dict=lambda: values)
    assert head_of(SimpleNamespace(get_text_config=lambda: text_config)) == expected


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("cap", [None, 3.0])
def test_logits_and_their_slope_by_hand(scale, cap):
    scores = torch.tensor([-4.0, 0.0, 0.5, 2.0]).requires_grad_()
    logits = Head(scale, cap)(scores)
    expected = [scale * z if cap is None else cap * math.tanh(scale * z / cap) for z in (-4.0, 0.0, 0.5, 2.0)]
    assert logits.tolist() == pytest.approx(expected)
    logits.sum().backward()
    assert Head(scale, cap).slope(logits.detach()).tolist() == pytest.approx(scores.grad.tolist(), rel=1e-5)


def test_logits_are_fp32():
    assert Head()(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.float32


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


def test_a_head_is_checked_without_dropout(model_of):
    model = model_of("gpt2", resid_pdrop=0.5).train()
    assert check_head(model) == Head()
    assert model.training


def test_a_head_of_zeros_is_as_its_config_says(model_of):
    model = model_of("llama")
    torch.nn.init.zeros_(model.lm_head.weight)
    assert check_head(model) == Head()


def test_a_model_whose_weights_are_elsewhere_has_the_head_of_its_config(model_of):
    assert check_head(model_of("granite").to("meta")) == Head(logit_scale=0.25)
