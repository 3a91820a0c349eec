import mmap
import platform

import pytest
import torch
from torch import nn

from derta.errors import ModelError
from derta.train.config import DertaConfig
from derta.train.memory import (
    loading_advice,
    out_of_memory_as_model_error,
    peak_memory,
    reset_peak_memory,
    resident_memory,
    static_bytes,
    training_advice,
)
from forks import run_forks


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the GPU's tensors are counted")
def test_the_peak_rises_with_what_is_held():
    reset_peak_memory()
    before = peak_memory()
    with mmap.mmap(-1, 2**27) as held:  # pages of its own: the allocator may have kept some from other tests
        held.write(b"x" * 2**27)
        during = peak_memory()
    assert during - before >= 2**26
    assert peak_memory() >= during - 2**24  # Linux counts pages by processor, and adds them up roughly


def test_a_model_that_nothing_but_itself_refers_to_is_not_measured():
    dead = nn.Linear(2**13, 2**13)  # 256 MB
    dead.itself = [dead]
    held = resident_memory()
    del dead
    reset_peak_memory()
    assert peak_memory() < held - 2**27


RESIDENT = """
import sys
import torch
from derta.train.memory import TrimMemoryCallback, keep_freed_memory, resident_memory

def done(micro_batch):
    getattr(giving, micro_batch)(None, None, None)

def keep_and_free(megabytes):
    tensors = [torch.ones(2**22) for _ in range(megabytes // 16)]
    end = torch.ones(2**10)  # a hole is below it
    print(resident_memory(), file=sys.stderr)
    del tensors
    print(resident_memory(), file=sys.stderr)
    return end

keep_freed_memory()
large = torch.ones(2**26)
print(resident_memory(), file=sys.stderr)
del large
print(resident_memory(), file=sys.stderr)
giving = TrimMemoryCallback()
done("on_step_end")
held = [keep_and_free(128)]
done("on_step_end")
print(resident_memory(), file=sys.stderr)
held.append(keep_and_free(1024))
done("on_substep_end")
print(resident_memory(), file=sys.stderr)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no other allocator is told to")
def test_freed_memory_of_small_tensors_is_kept_until_it_is_much_and_of_large_ones_given_back(tmp_path):
    [ended] = run_forks(RESIDENT, folder=tmp_path)
    with_large, large_freed, little, freed, kept, much, much_freed, given_back = map(int, ended.stderr.split())
    assert large_freed < with_large - 2**27  # of 256 MB
    assert freed > little - 2**24  # of 128 MB
    assert kept > little - 2**24
    assert much_freed > much - 2**24  # of 1 GB
    assert given_back < much - 2**29


def test_frozen_weights_need_no_gradient_and_no_optimizer():
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 5, bias=False))
    net[0].weight.requires_grad_(requires_grad=False)
    assert static_bytes(net) == 4 * (100 + 4 * 50)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_names_the_options_to_change(error):
    train = DertaConfig("out", global_batch_size=6, per_device_train_batch_size=3, max_length=77)
    with (
        pytest.raises(ModelError, match=r"need 0\.0 GiB.*\(3 rows of up to 77 tokens\); reduce `per_device"),
        out_of_memory_as_model_error(lambda: training_advice(train, nn.Linear(2, 2))),
    ):
        raise error


def test_a_tensor_too_large_for_any_machine_is_out_of_memory():
    with pytest.raises(ModelError, match="out of memory"), out_of_memory_as_model_error(loading_advice):
        torch.empty(2**50)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory_as_model_error(loading_advice):
        raise RuntimeError("shapes do not fit")


@pytest.mark.parametrize("error", [MemoryError(), OSError(12, "Cannot allocate memory")])
def test_running_out_of_memory_before_training_has_separate_advice(error):
    with (
        pytest.raises(ModelError, match=r"while the model was loaded, before training: .*LoRA"),
        out_of_memory_as_model_error(loading_advice),
    ):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), OSError(2, "No such file")])
def test_other_faults_before_training_stay_what_they_are(error):
    with pytest.raises(type(error), match=str(error.args[-1])), out_of_memory_as_model_error(loading_advice):
        raise error
