"""The devices that tests of this folder run on: the CPU in the suite, and a GPU where there is one."""

import pytest
from tiny_training import *  # noqa: F403 - fixtures that tests/train has, too

from cuda_device import CUDA
from derta.loading import keep_attention_off_cudnn


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    return request.param


@pytest.fixture(autouse=True)
def attention_as_in_a_run():
    """Keep attention off cuDNN, as trainers and engines do: it would build plans for the shapes of each test."""
    keep_attention_off_cudnn()
