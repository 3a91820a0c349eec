"""The devices that tests of this folder run on: the CPU in the suite, and a GPU where there is one."""

import pytest
from tiny_training import *  # noqa: F403 - fixtures that tests/train has, too

from cuda_device import CUDA


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    return request.param
