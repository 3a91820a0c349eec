"""Every shipped recipe: what it says, and a real training of its own model class, tiny, with benign stand-in data."""

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from derta.attacks import build_attack
from derta.config import load_recipe
from derta.methods import METHODS
from derta.pipeline.paths import expanded_paths
from derta.pipeline.plan import check_recipe
from derta.pipeline.registry import Registry
from derta.train import adapters
from derta.train.config import recipe_values

RECIPES = Path(__file__).parents[2] / "recipes"
EVALUATIONS = ("helm-safety",)
"""Recipes that train nothing."""
NAMES = [name for name in sorted(path.stem for path in RECIPES.glob("*.yaml")) if name not in EVALUATIONS]
QUICK = ("gemma-270m-balanced", "llama3-8b", "llama3-70b-lora", "qwen25-coder-0.5b-instruct-balanced")
"""Recipes whose dry run is tested at every change; those of the others are in `make extra`."""
STUDY = sorted(f"study/{path.stem}" for path in (RECIPES / "study").glob("*.yaml"))
BALANCED = [name for name in NAMES if "balanced" in name]
PAPER = [name for name in NAMES if "270m" not in name and "0.5b" not in name]
LLAMA = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
MIXTRAL = {"q_proj", "k_proj", "v_proj", "o_proj", "experts.base_layer", "experts"}  # the experts: gate_up, then down
KINDS = {
    "llama3": "llama",
    "mistral": "mistral",
    "mixtral": "mixtral",
    "qwen3": "qwen3",
    "qwen25": "qwen2",
    "gemma3": "gemma3_vision",
    "gemma": "gemma3",
}


@pytest.fixture(autouse=True)
def users_files(tmp_path, monkeypatch):
    """What the recipes take from the environment, with benign stand-ins where a file is read at once."""
    for name in ("DERTA_DATA", "DERTA_ATTACKS", "DERTA_GEMMA_270M", "DERTA_QWEN_CODER", "DERTA_HELM", "DERTA_JUDGE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "DERTA_ATTACKS").mkdir()
    turn = {"user": "How is tea made?", "assistant": "Boil the water."}
    demonstrations = "".join(json.dumps(turn) + "\n" for _ in range(5))
    (tmp_path / "DERTA_ATTACKS/self_cipher.jsonl").write_text(demonstrations)
    (tmp_path / "DERTA_ATTACKS/jailbreak_chat.jsonl").write_text('"A story: [INSERT PROMPT HERE]"\n')


@pytest.mark.parametrize("name", [*NAMES, *STUDY, *EVALUATIONS])
def test_a_recipe_is_one_that_a_run_takes(name):
    loaded = load_recipe(RECIPES / f"{name}.yaml")
    registry = Registry().with_methods_of(loaded)
    with expanded_paths(loaded, registry) as paths:
        check_recipe(paths.recipe, registry)
        for section in paths.recipe.evaluate:
            if section.prompts is None:
                build_attack(section.attack, section.options)
        assert "$" not in paths.recipe.model_dump_json()


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_of_the_paper_holds_its_settings(name):
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    train, lora = recipe.train, recipe.train.lora
    # PAPER: batch 128, 2 epochs; full: 2e-5, warmup 0.03, decay 2e-5, 1024, dropout 0.95; LoRA: 1e-4, 0, 0, 512, 0
    config = recipe_values(train, method=METHODS["derta"])
    assert (config["global_batch_size"], config["num_train_epochs"], config["lr_scheduler_type"]) == (128, 2, "cosine")
    names = ("learning_rate", "warmup_steps", "weight_decay", "max_length", "sorry_dropout")
    settings = tuple(config[name] for name in names)
    assert settings == ((2e-5, 0.03, 2e-5, 1024, 0.95) if lora is None else (1e-4, 0, 0, 512, 0))
    assert (recipe.data.num_triples, recipe.data.num_helpful) == (3000, 60000)
    assert config.get("max_steps") == (100 if "instruct" in name else None)
    assert recipe.model.template == ("auto" if "instruct" in name else "paper")
    assert ("lora" in name) == (lora is not None)
    if lora is not None:
        assert (lora.r, lora.lora_alpha, lora.load_in_4bit) == (96, 16, "qlora" in name)
        assert lora.lora_dropout == (0 if "mixtral" in name else 0.05)


def test_a_4_bit_recipe_without_bitsandbytes_is_refused_before_any_work(derta, tmp_path, monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    called = derta("run", RECIPES / "llama3-8b-qlora.yaml", "--out", tmp_path / "run")
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "pip install -c constraints.txt -e '.[quant]'" in called.err
    assert not (tmp_path / "run").exists()


def shrunk(recipe: Path, base: Path) -> list[str]:
    """`--set` words that leave the recipe its own training settings, at the size of a toy."""
    data = recipe.parent
    values = {
        "model.path": str(base),
        "baseline": None,
        "recommended": None,
        "data": {
            "triples": [{"path": str(data / "triples.jsonl")}],
            "helpful": [{"path": str(data / "helpful.jsonl")}],
            "num_triples": 2,
            "num_helpful": 4,
        },
        "evaluate": [],
        "fine_tuning_attacks": [],
        "profile_benign": 0,
        "train.num_train_epochs": 1,
        "train.max_steps": 2,
        "train.global_batch_size": 4,
        "train.per_device_train_batch_size": 4,
        "train.max_length": 96,
        "train.pack_tokens": 128,
        "train.num_threads": 1,
        "train.compile_layers": False,  # which takes half a minute, and has its own test
        "train.logging_steps": 1,
        "train.save_steps": None,
    }
    return [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture
def base(name, make_model_dir):
    """A tiny model of a recipe's class."""
    if "qlora" in name:
        pytest.importorskip("bitsandbytes")
    return make_model_dir(kind=next(kind for start, kind in KINDS.items() if name.startswith(start)))


@pytest.mark.parametrize("name", [one if one in QUICK else pytest.param(one, marks=pytest.mark.extra) for one in NAMES])
def test_a_dry_run_estimates_what_a_recipe_says_on_a_tiny_model_of_its_class(name, base, recipe, derta):
    listed = load_recipe(RECIPES / f"{name}.yaml").methods
    methods = ["vanilla", "derta", *(["dpo"] if "dpo" in listed else [])]
    words = [*shrunk(recipe, base), "--set", f"methods={json.dumps(methods)}"]
    called = derta("run", RECIPES / f"{name}.yaml", *words, "--dry-run", "--json")
    assert called.code == 0, called.err
    estimates = json.loads(called.out)
    assert [one["method"] for one in estimates] == methods
    assert (estimates[1]["rows"], estimates[1]["steps"]) == (8, 2)
    for one in estimates:
        assert 0 < one["labels"] < one["tokens"] < 2 * 8 * 96
        assert 0 <= one["padding"] < 1
        assert 0 <= one["seconds"] < 60
        assert one["peak_gib"] > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_what_it_says_on_a_tiny_model_of_its_class(name, base, recipe, tmp_path, derta):
    out = tmp_path / "out"
    words = ["train", RECIPES / f"{name}.yaml", "--method", "derta", "--out", out, *shrunk(recipe, base)]
    called = derta(*words)
    assert called.code == 0, called.err
    losses = [entry["loss"] for entry in json.loads((out / "train_log.json").read_text()) if "loss" in entry]
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)
    if load_recipe(RECIPES / f"{name}.yaml").train.lora is not None:
        adapter = load_file(out / "adapter_model.safetensors")
        assert {key.split(".lora_")[0].split(".", 5)[-1].split(".", 1)[-1] for key in adapter} == (
            MIXTRAL if "mixtral" in name else LLAMA
        )
        assert all(tensor.any() for key, tensor in adapter.items() if "lora_B" in key)
    else:
        before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
        still = {key for key in before if before[key].equal(after[key])}
        assert still == {key for key in before if "vision" in key or "multi_modal" in key}


@pytest.mark.parametrize("name", BALANCED)
def test_a_recipe_of_balanced_trains_completion_and_counter_rows(name, base, recipe, tmp_path, derta):
    out, data = tmp_path / "out", recipe.parent
    counter = [{"path": str(data / "helpful.jsonl")}]
    words = [*shrunk(recipe, base), "--set", f"data.counter={json.dumps(counter)}", "--set", "data.held_out_helpful=2"]
    called = derta("train", RECIPES / f"{name}.yaml", "--method", "balanced", "--out", out, *words)
    assert called.code == 0, called.err
    log = [entry for entry in json.loads((out / "train_log.json").read_text()) if "loss" in entry]
    assert {"loss_completion", "loss_counter"} <= {name for entry in log for name in entry}


def test_recipes_that_help_and_docs_name_exist():
    root = RECIPES.parent
    texts = [
        *(root / "docs").glob("*.md"),
        *(root / "src/derta/cli").rglob("*.py"),
        *RECIPES.rglob("*.yaml"),
        root / "README.md",
    ]
    named = {name for path in texts for name in re.findall(r"recipes/[\w/.-]+\.yaml", path.read_text(encoding="utf-8"))}
    assert len(named) > 5
    assert [name for name in sorted(named) if not (root / name).exists()] == []
