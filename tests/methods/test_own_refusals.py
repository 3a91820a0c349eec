"""The rows of the preference stage: pairs of own refusals and of triples, and their settings."""

import pytest

from derta.chat import refusal_tokens
from derta.config import ModelSection, TrainSection
from derta.data.mixture import TrainingSet
from derta.data.preferences import Preference
from derta.errors import RecipeError
from derta.methods import METHODS, check_settings, method_config
from derta.methods.own_refusals import OwnRefusalsConfig, encode_own_pairs
from derta.records import Triple

TRIPLES = [Triple(query=f"Paint {i}?", safe="Sorry, no.", harmful=f"Sure, step {i}.") for i in range(3)]
OWN = [
    Preference(query="Bread?", chosen="Mix flour.", rejected="Sorry, no."),
    Preference(query="Bread?", chosen=" flour and water.", rejected=" Sorry", prefill="Mix", rejected_ends=False),
]


@pytest.fixture
def encoded(tiny_chat, tmp_path):
    """The encoded pairs, with settings."""

    def encoded(own=OWN, **settings):
        config = OwnRefusalsConfig(str(tmp_path), **settings)
        data = TrainingSet(triples=TRIPLES, preferences=own)
        return encode_own_pairs(data, chat=tiny_chat, refusals=refusal_tokens(tiny_chat, ("Sorry",)), config=config)

    return encoded


def test_each_own_refusal_is_rejected_and_as_many_triples_prefer_their_safe_response(encoded, tiny_chat):
    first, second, *triples = encoded()
    decode = tiny_chat.tokenizer.decode
    assert decode(first.chosen_ids).startswith("Mix flour.")
    assert first.chosen_ids[-len(tiny_chat.closing_ids) :] == tuple(tiny_chat.closing_ids)
    assert decode(second.chosen_prompt_ids).endswith("<|assistant|>\nMix")
    assert decode(second.rejected_ids) == " Sorry"  # cut off: the model has not ended it
    assert second.chosen_ids[-len(tiny_chat.closing_ids) :] == tuple(tiny_chat.closing_ids)
    assert [pair.id for pair in triples] == [one.id for one in TRIPLES[:2]]
    assert decode(triples[0].chosen_ids).startswith("Sorry, no.")


@pytest.mark.parametrize(("share", "count"), [(0, 0), (0.5, 1), (1, 2), (9, 3)])
def test_the_number_of_triples_follows_that_of_the_pairs(encoded, share, count):
    assert len(encoded(triples_per_pair=share)) == 2 + count


def test_without_own_refusals_there_is_no_pair(encoded):
    assert encoded([]) == []


def test_its_settings_are_those_of_the_method_alone():
    check_settings(METHODS["balanced_dpo"], TrainSection(), {"answer_starts": [0, 5], "beta": 0.2})
    for settings in ({"answer_starts": []}, {"answer_starts": [-1]}, {"counter_examples": 0}):
        with pytest.raises(RecipeError, match=r"method_settings\.balanced_dpo"):
            check_settings(METHODS["balanced_dpo"], TrainSection(), settings)


def test_as_for_dpo_its_learning_rate_and_epochs_are_its_own_and_not_those_of_row_methods(tmp_path):
    train = TrainSection.model_validate({"learning_rate": 2e-5, "num_train_epochs": 3, "weight_decay": 0.5})
    for name in ("dpo", "balanced_dpo"):
        config = method_config(METHODS[name], train, model=ModelSection(path="m"), seed=0, output_dir=tmp_path)
        assert (config.learning_rate, config.num_train_epochs, config.weight_decay) == (5e-7, 1, 0.5)
