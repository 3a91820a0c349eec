"""Models and example prompts of the playground."""

import json
import os

import pytest

from derta.errors import ModelError
from derta.pipeline.explored_models import PER_CELL, example_prompts, find_models, load_models, prompts_of_run
from derta.pipeline.exploring import Question, continue_conversation
from derta.records import Message
from small_run import write_jsonl


def test_the_models_of_a_run_have_the_names_of_their_folders(finished):
    found = find_models([str(finished.folder)])
    assert found == {name: str(finished.folder / name / "model") for name in ("derta-seed0", "vanilla-seed0")}
    assert find_models([str(finished.folder / "derta-seed0")]) == {"derta-seed0": found["derta-seed0"]}
    assert find_models([found["derta-seed0"]]) == {"derta-seed0": found["derta-seed0"]}


def test_a_model_that_is_given_twice_is_an_error(finished):
    with pytest.raises(ModelError, match="expected each model once"):
        find_models([str(finished.folder), str(finished.folder / "derta-seed0")])


def test_a_folder_without_a_model_is_an_error_of_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"expected a folder with config\.json"):
        load_models(find_models([str(tmp_path)]))


def test_the_prompts_of_the_run_are_the_examples(finished):
    path = prompts_of_run(find_models([str(finished.folder)]))
    assert path == finished.folder / "prompts.jsonl"
    examples = example_prompts(path)
    assert any(one.prefill for one in examples)
    cells = [one.name.partition(": ")[0] for one in examples]
    assert {"direct", "prefill@50%"} <= {*cells}
    assert max(map(cells.count, cells)) <= PER_CELL
    assert cells == sorted(cells, key=cells.index)  # those of an attack are together


def test_a_model_outside_a_run_has_no_examples(tiny_model_dir):
    assert prompts_of_run({"tiny": str(tiny_model_dir)}) is None


def test_prompts_that_the_page_cannot_show_are_left_out_and_a_ban_is_kept(tmp_path):
    plain = {"request_id": "r", "attack": "a", "messages": [{"role": "user", "content": "Why?"}]}
    tool = {"type": "function", "function": {"name": "f"}}
    rows = [
        {**plain, "id": "1", "decoding": {"banned": ["No"]}},
        {**plain, "id": "2", "tools": [tool]},
        {"id": "3", "request_id": "r", "attack": "a", "mode": "raw", "text": "Why?"},
        {**plain, "id": "4", "prefill": "So", "prefill_in": "thought"},
    ]
    [only] = example_prompts(write_jsonl(tmp_path / "prompts.jsonl", rows))
    assert only.banned == ("No",)


@pytest.fixture
def adapter(tmp_path, tiny_model_dir):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.fill_(0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def answer(engine):
    asked = (Message(role="user", content="How do I paint a fence?"),)
    return continue_conversation(engine, Question(messages=asked, max_new_tokens=3))


def test_an_adapter_is_loaded_on_the_base_that_it_names_or_on_another(adapter, tiny_model_dir):
    paths = {"base": str(tiny_model_dir), "adapter": str(adapter)}
    engines = load_models(paths, settings={"device": "cpu"})
    assert [*engines] == ["base", "adapter"]
    assert answer(engines["base"]) != answer(engines["adapter"])
    config = adapter / "adapter_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"base_model_name_or_path": os.fspath(adapter / "gone")}))
    with pytest.raises(ModelError, match="gone"):
        load_models({"adapter": str(adapter)})
    moved = load_models({"adapter": str(adapter)}, base=str(tiny_model_dir), settings={"device": "cpu"})
    assert answer(moved["adapter"]) == answer(engines["adapter"])


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"base_model_name_or_path": null}'])
def test_an_adapter_that_names_no_base_is_an_error_of_one_line(tmp_path, text):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"adapter_config\.json: expected") as caught:
        load_models({"adapter": str(tmp_path)})
    assert "\n" not in str(caught.value)


def test_a_base_without_an_adapter_is_an_error(tiny_model_dir):
    with pytest.raises(ModelError, match="--base x: expected an adapter"):
        load_models({"tiny": str(tiny_model_dir)}, base="x")
