import json
from dataclasses import fields, replace

import pytest
import torch
from transformers import HfArgumentParser, TrainingArguments

from derta.config import ELSEWHERE, REFUSED, ROW_FIELDS, WORKING, ModelSection, TrainSection
from derta.errors import RecipeError
from derta.methods import METHODS
from derta.train.config import DertaConfig, train_config, write_arguments

MODEL = ModelSection(path="m")


# --- every field of the pinned TrainingArguments ---------------------------------------------------------------------


def test_every_field_of_the_pinned_version_either_works_or_is_refused():
    theirs = {one.name for one in fields(TrainingArguments) if one.init}
    assert theirs == WORKING | REFUSED.keys()
    assert not WORKING & REFUSED.keys()
    assert not set(ROW_FIELDS) & theirs
    assert set(ELSEWHERE) <= WORKING | set(ROW_FIELDS)


def test_output_dir_stays_the_first_argument_and_a_cpu_takes_bf16(tmp_path):
    config = DertaConfig(str(tmp_path), method="derta", sorry_dropout=0.9, bf16=True)
    assert (config.output_dir, config.bf16, config.sorry_dropout) == (str(tmp_path), True, 0.9)
    assert config.use_cpu is not torch.accelerator.is_available()


def test_the_defaults_are_the_papers(tmp_path):
    config = DertaConfig(str(tmp_path))
    assert (config.global_batch_size, config.num_train_epochs, config.learning_rate) == (128, 2, 2e-5)
    assert (config.weight_decay, config.lr_scheduler_type.value, config.warmup_steps) == (2e-5, "cosine", 0.03)
    assert (config.max_length, config.sorry_dropout, config.term_weights) == (1024, 0.95, (1,) * 5)
    assert config.get_warmup_steps(100) == 3
    assert config.report_to == []


def test_saving_is_turned_on_by_its_steps_or_its_strategy(tmp_path):
    saving = [
        (config.save_strategy.value, config.save_steps)
        for settings in ({}, {"save_steps": 3}, {"save_strategy": "steps"}, {"save_strategy": "epoch"})
        for config in [DertaConfig(str(tmp_path), **settings)]
    ]
    assert saving == [("no", None), ("steps", 3), ("steps", 500), ("epoch", None)]


# --- a config as data ------------------------------------------------------------------------------------------------


def test_a_copy_with_other_settings_works_out_anew_what_follows_from_them(tmp_path):
    config = DertaConfig(str(tmp_path), global_batch_size=16, eval_strategy="steps", activation_checkpointing=True)
    assert replace(config) == config
    assert replace(config, global_batch_size=32).gradient_accumulation_steps == 4
    assert DertaConfig(**json.loads(config.to_json_string())).gradient_accumulation_steps == 2
    with pytest.raises(RecipeError, match="gradient_accumulation_steps: cannot be set"):
        replace(config, gradient_accumulation_steps=7)


def test_what_a_config_shows_of_itself_holds_no_token_and_any_method(tmp_path):
    config = DertaConfig(str(tmp_path), hub_token="hf_planted", method=METHODS["rto"])  # noqa: S106
    assert json.loads(config.to_json_string())["method"] == "rto"
    assert not [text for text in (repr(config), str(config), config.to_json_string()) if "hf_planted" in text]


def test_a_config_is_parsed_from_a_command_line_and_a_file_as_hugging_faces_are(tmp_path):
    parser = HfArgumentParser(DertaConfig)
    words = "--learning_rate 1e-4 --method rto --refusal_words Sorry No --normalization row --save_steps 10 --tree_rows"
    given = ["--output_dir", str(tmp_path), *words.split(), "--template_kwargs", '{"thinking": false}']
    [config] = parser.parse_args_into_dataclasses(given)
    assert (config.learning_rate, config.method, config.normalization, config.tree_rows) == (1e-4, "rto", "row", True)
    assert (config.refusal_words, config.template_kwargs) == (("Sorry", "No"), {"thinking": False})
    assert (config.save_strategy.value, config.save_steps, config.gradient_accumulation_steps) == ("steps", 10, 16)
    [plain] = parser.parse_args_into_dataclasses(["--output_dir", str(tmp_path)])
    assert plain == DertaConfig(str(tmp_path))
    (tmp_path / "config.yaml").write_text(f"output_dir: {tmp_path}\nmethod: rto\nrefusal_words: [Sorry]\n")
    [read] = parser.parse_yaml_file(tmp_path / "config.yaml")
    assert read == DertaConfig(str(tmp_path), method="rto")


# --- steps -----------------------------------------------------------------------------------------------------------


def test_one_process_keeps_to_one_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: setattr(self, "_n_gpu", 4))
    monkeypatch.setattr(DertaConfig, "n_gpu", property(lambda self: self._n_gpu))
    assert DertaConfig(str(tmp_path)).n_gpu == 1


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_a_recipes_settings_reach_the_config(tmp_path):
    train = TrainSection.model_validate(
        {"max_steps": "7", "lr_scheduler_type": "linear", "warmup_steps": 0.1, "weight_decay": "5e-1", "save_steps": 3,
         "reference": True, "max_length": 64}
    )  # fmt: skip
    model = ModelSection(path="m", template="paper", refusal_words=("No",))
    config = train_config(train, model=model, method="rto", seed=3, output_dir=tmp_path)
    assert (config.max_steps, config.gradient_accumulation_steps, config.seed) == (7, 16, 3)
    assert (config.lr_scheduler_type.value, config.save_steps, config.save_strategy.value) == ("linear", 3, "steps")
    assert config.get_warmup_steps(100) == 10
    assert config.weight_decay == 0.5
    assert (config.reference, config.max_length, config.method) == (True, 64, "rto")
    assert (config.template, config.refusal_words) == ("paper", ("No",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": -1}, "^`train.learning_rate`: .*greater than 0, got -1"),
        ({"lr_scheduler_type": "cosin"}, "^`train.lr_scheduler_type`: expected one of"),
    ],
)
def test_a_recipes_invalid_value_is_reported_with_its_key(tmp_path, settings, message):
    train = TrainSection.model_validate(settings)
    with pytest.raises(RecipeError, match=message):
        train_config(train, model=MODEL, method="rto", seed=3, output_dir=tmp_path)


def test_arguments_are_saved_without_secrets_and_paths(tmp_path):
    config = DertaConfig(str(tmp_path / "here"), hub_token="hf_secret", learning_rate=1e-3)  # noqa: S106
    write_arguments(config, tmp_path)
    text = (tmp_path / "training_args.json").read_text()
    assert json.loads(text)["learning_rate"] == 1e-3
    assert "hf_secret" not in text
    assert str(tmp_path) not in text


HALF = replace(METHODS["derta"], name="half", defaults={"prefix_share": 0.5, "max_prefix": 9})


def test_a_methods_defaults_apply_to_fields_that_are_not_set(tmp_path):
    config = DertaConfig(str(tmp_path), method=HALF, max_prefix=7)
    assert (config.prefix_share, config.max_prefix) == (0.5, 7)
    assert replace(DertaConfig(str(tmp_path)), method=HALF).prefix_share == 0.5
    assert replace(config, seed=3).prefix_share == 0.5


def test_a_methods_default_for_an_unknown_field_is_an_error_that_suggests_another(tmp_path):
    method = replace(HALF, defaults={"prefix_shar": 0.5})
    with pytest.raises(RecipeError, match="half: unknown setting 'prefix_shar' in its defaults; did you mean"):
        DertaConfig(str(tmp_path), method=method)


def test_a_recipe_overrides_a_methods_defaults_even_by_the_general_ones(tmp_path):
    def config_of(train, **settings):
        train = TrainSection.model_validate(train)
        return train_config(train, model=MODEL, method=HALF, seed=0, output_dir=tmp_path, overrides=settings)

    assert (config_of({}).prefix_share, config_of({}).max_prefix) == (0.5, 9)
    assert config_of({"prefix_share": 0.25}).prefix_share == 0.25
    config = config_of({}, prefix_share=2 / 3, max_prefix=None)
    assert (config.prefix_share, config.max_prefix) == (2 / 3, None)


def test_an_unknown_method_of_a_config_is_an_error_that_suggests_another(tmp_path):
    with pytest.raises(RecipeError, match="unknown method 'detra'; did you mean 'derta'"):
        DertaConfig(str(tmp_path), method="detra")
    with pytest.raises(RecipeError, match=r"unknown method \['derta'\]"):
        DertaConfig(str(tmp_path), method=["derta"])
