import pytest

from derta.config import LoraSection, ModelSection, TrainSection
from derta.errors import ModelError, RecipeError
from derta.train.start import load_start

TRAIN = TrainSection()
LORA = LoraSection(r=4, lora_alpha=8)


def test_an_adapter_needs_a_recipe_with_lora(vanilla_adapter, vanilla):
    with pytest.raises(RecipeError, match=r"the recipe has no `train\.lora`, got an adapter"):
        load_start(ModelSection(path=str(vanilla)), TRAIN, start=vanilla_adapter)


def test_a_folder_that_holds_no_model_is_refused(tmp_path, vanilla):
    with pytest.raises(ModelError, match="expected a folder with a tuned model or adapter, found none"):
        load_start(ModelSection(path=str(vanilla)), TRAIN, start=tmp_path)


def test_an_adapter_without_weights_or_for_another_model_is_refused(tmp_path, make_model_dir, vanilla, vanilla_adapter):
    train = TrainSection(lora=LORA)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"expected adapter_model\.safetensors, found none"):
        load_start(ModelSection(path=str(vanilla)), train, start=tmp_path)
    other = make_model_dir(hidden_size=32, initializer_range=0.05)
    with pytest.raises(ModelError, match="expected an adapter for the recipe's model"):
        load_start(ModelSection(path=str(other)), train, start=vanilla_adapter)


def test_lora_on_the_head_is_refused(vanilla):
    train = TrainSection(lora=LoraSection(target_modules=("q_proj", "lm_head")))
    with pytest.raises(RecipeError, match="expected no lm_head"):
        load_start(ModelSection(path=str(vanilla)), train, start=vanilla)
