"""Data and settings of the tests of `DertaTrainer`, and its fixtures."""

import pytest
from tiny_training import THINGS

from derta.data.rows import IGNORE
from derta.records import Example, Message, Triple
from derta.train.config import DertaConfig
from derta.train.trainer import DertaTrainer

SETTINGS = {
    "method": "derta", "sorry_dropout": 0.5, "bf16": True, "global_batch_size": 8, "per_device_train_batch_size": 4,
    "num_train_epochs": 2, "learning_rate": 1e-3, "max_length": 128, "logging_steps": 1, "warmup_steps": 0,
    "disable_tqdm": True,
}  # fmt: skip
TRIPLES = [
    Triple(query=f"How do I paint {thing}?", safe=f"Sorry, no {thing}.", harmful=f"Sure, {thing}. Step 1: wait.")
    for thing in THINGS[:6]
]
EXAMPLES = [
    Example(messages=(Message(role="user", content=f"And {t}?"), Message(role="assistant", content=f"A story of {t}.")))
    for t in THINGS[:6]
]
READY = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORE, IGNORE, 7, 8, 9], "term": "helpful"},
    {"input_ids": [5, 6, 7, 8], "labels": [IGNORE, IGNORE, 3, 3], "term": "rto"},
]


@pytest.fixture(scope="module")
def base(make_model_dir):
    return str(make_model_dir(initializer_range=0.05))


@pytest.fixture
def trainer_of(base, tmp_path):
    def make(model=base, out="out", data=True, **given):
        names = {name for name in given if name not in SETTINGS and name in DertaConfig.__dataclass_fields__}
        settings = SETTINGS | {name: given.pop(name) for name in {*names, *(SETTINGS.keys() & given.keys())}}
        sets = {"triples": TRIPLES, "examples": EXAMPLES} if data else {}
        return DertaTrainer(model=model, args=DertaConfig(str(tmp_path / out), **settings), **(sets | given))

    return make
