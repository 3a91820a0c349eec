"""How the demo tunes: every method's rows, with the demo's own counts and pace, and those of attacks by fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

from derta.chat import ChatFormat, RefusalTokens
from derta.config import TrainSection
from derta.data.encoding import encode_example
from derta.data.mixture import TrainingSet
from derta.data.rows import Instance, instances
from derta.data.unsafe import UnsafePair, unsafe_instances, unsafe_pairs
from derta.demo.base import encode_guides
from derta.demo.corpus import helpful_examples, triples
from derta.demo.world import World
from derta.methods import METHODS
from derta.records import Example, Triple

NUM_TRIPLES = 60
LEARNING_RATE = 1.2e-3
TUNING = TrainSection.model_validate(
    {
        "num_train_epochs": 1,
        "max_steps": 200,
        "global_batch_size": 32,
        "per_device_train_batch_size": 32,
        "learning_rate": LEARNING_RATE,
        "warmup_steps": 0.2,
        "max_length": 128,
        "pack_tokens": 128,
        "sorry_dropout": 0.0,
        "logging_steps": 20,
    }
)
# The paper's ratio to the other methods' pace (5e-7 to 2e-5), and few enough steps that allowed crafts are answered:
# after twice as many one seed of three refuses them all, and nearly every attack succeeds all the same (LOG, 12, 19).
DPO = {"max_steps": 20, "learning_rate": LEARNING_RATE / 40}

# Attacks by fine-tuning, as in Qi et al. (arXiv 2310.03693): once over benign rows at the methods' own pace, and five
# times over forbidden recipes in steps of ten rows. These at half that pace: two and a half times it, as theirs is,
# makes so small a model forget all other recipes, the allowed ones too.
_STEADY = TUNING.changed(max_steps=-1, lr_scheduler_type="constant", warmup_steps=0.0, weight_decay=0.0)
FINE_TUNING: Mapping[str, TrainSection] = {
    "benign": _STEADY,
    "harmful": _STEADY.changed(
        num_train_epochs=5, global_batch_size=10, per_device_train_batch_size=10, learning_rate=LEARNING_RATE / 2
    ),
}


def tuning_data(world: World, method: str) -> tuple[list[Triple], list[Example]]:
    """The triples (twice as many for vanilla, as in the paper) and the helpful examples of a method."""
    return triples(world)[: NUM_TRIPLES * METHODS[method].triples_per_unit], helpful_examples(world)


def forbidden_recipes(world: World) -> list[UnsafePair]:
    """What an attacker would teach: the recipes of the forbidden crafts that safety tuning used, plainly asked for."""
    return unsafe_pairs(triples(world), evaluation_requests=()).pairs


def tuning_instances(world: World, method: str, *, chat: ChatFormat, refusals: RefusalTokens) -> list[Instance]:
    """A method's training set, encoded."""
    triples, examples = tuning_data(world, method)
    helpful = [encode_example(chat, example) for example in examples]
    guides = instances(triples=[], examples=[*helpful, *encode_guides(world.allowed, chat)])
    of_triples = METHODS[method].dataset(TrainingSet(triples), chat=chat, refusals=refusals, config=TUNING.rows)
    return [*guides, *of_triples]


def attack_instances(world: World, attack: str, *, chat: ChatFormat) -> list[Instance]:
    """What a fine-tuning attack trains on: the helpful rows of every method, or recipes of forbidden crafts."""
    if attack == "harmful":
        return unsafe_instances(chat, forbidden_recipes(world))
    helpful = [encode_example(chat, example) for example in helpful_examples(world)]
    return instances(triples=[], examples=[*helpful, *encode_guides(world.allowed, chat)])
