"""One of several processes on CPU that are made to believe in accelerators: `sharded_worker.py JOBS.pickle`.

accelerate shards on accelerators only. All else is as there: its own plugins, FSDP2's and DeepSpeed's own code, gloo.
"""

import pickle
import sys
from contextlib import suppress
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from stopping import StopAt

from derta.train import checks, config, distributed, preparation


def on_cpu(state):
    state.device = torch.device("cpu")


def whole_state_dict(accelerator, model, **settings):
    """On CPU, `full_tensor` is not waited for; copying from an accelerator would do that."""
    gathered = gather(accelerator, model, **settings) or {}
    return {name: tensor.wait() if hasattr(tensor, "wait") else tensor for name, tensor in gathered.items()}


gather = Accelerator.get_state_dict

if __name__ == "__main__":  # pytest imports it as well
    Accelerator.get_state_dict = whole_state_dict
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = on_cpu
    config.has_accelerator = checks.has_accelerator = lambda: True
    preparation.check_launch = distributed.check_launch = lambda: None
    from tiny_training import tune_job

    for job, stop in pickle.loads(Path(sys.argv[1]).read_bytes()):  # noqa: S301 - the test's own
        if stop:
            with suppress(KeyboardInterrupt):
                tune_job(**job, callbacks=[StopAt(stop)])
        tune_job(**job)
