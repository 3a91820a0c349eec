"""Models that a run evaluates as they are: the untuned one, and others with chat templates of their own."""

import json
import shutil

import pytest

from derta.config import load_recipe
from derta.errors import DertaError
from derta.files import read_records
from derta.pipeline.contents import read_contents
from derta.pipeline.plan import check_recipe
from derta.pipeline.registry import Registry
from derta.pipeline.run import run
from derta.records import Reply


@pytest.fixture
def rival(tiny_model_dir, tmp_path):
    folder = tmp_path / "rival"
    shutil.copytree(tiny_model_dir, folder)
    return folder


def with_methods(recipe, *methods, **changes):
    return load_recipe(recipe, overrides={"methods": list(methods), **changes})


def producer_of(folder):
    return next(read_records(folder / "replies.jsonl", Reply)).producer or {}


def test_untuned_and_other_models_have_a_row_each_and_one_evaluation_for_all_seeds(recipe, rival, tmp_path):
    entry = {"name": "rival", "path": str(rival), "template": "paper"}
    summary = run(with_methods(recipe, "base", "derta", entry, seeds=[0, 1]), out=tmp_path / "run")
    entries = read_contents(tmp_path / "run").models
    assert [(one.label, one.seed, one.own_format) for one in entries] == [
        ("base", 0, False),
        ("derta", 0, False),
        ("derta", 1, False),
        ("rival", 0, True),
    ]
    assert summary.frontier is not None
    assert {one.method: one.seeds for one in summary.frontier.points} == {"base": (0,), "derta": (0, 1), "rival": (0,)}
    seeds = {(cell.method, cell.seed) for cell in summary.cells if cell.name == "direct" and cell.judge == "harm"}
    assert seeds == {("base", 0), ("derta", 0), ("derta", 1), ("derta", None), ("rival", 0)}
    paired = {(one.first, one.second): one.pairs for one in summary.comparisons if one.name == "direct"}
    assert set(paired.values()) == {3}  # the prompts, whatever the number of seeds
    assert producer_of(tmp_path / "run" / "rival-seed0")["template"] == "paper"
    # the tokens of another model may be others, so its perplexity is no ratio to the first's
    assert not any(note.startswith("rival") and "perplexity" in note for note in summary.notes)
    assert any(note.startswith("derta, seed 1: perplexity") and "times that of base" in note for note in summary.notes)


def test_another_model_can_join_a_finished_run_and_resumes(finished, rival, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    before = (folder / "derta-seed0" / "replies.jsonl").stat().st_mtime_ns
    recipe = with_methods(finished.recipe, "base", "vanilla", "derta", {"name": "rival", "path": str(rival)})
    first = run(recipe, out=folder)
    assert (folder / "derta-seed0" / "replies.jsonl").stat().st_mtime_ns == before
    replies = folder / "rival-seed0" / "replies.jsonl"
    time = replies.stat().st_mtime_ns
    assert run(recipe, out=folder) == first
    assert replies.stat().st_mtime_ns == time
    manifest = json.loads((folder / "manifest.json").read_text())
    assert str(rival / "model.safetensors") in manifest["inputs"]
    config = json.loads((rival / "generation_config.json").read_text())
    (rival / "generation_config.json").write_text(json.dumps(config | {"max_length": 77}))  # another model now
    run(recipe, out=folder)
    assert replies.stat().st_mtime_ns > time
    assert replies.with_suffix(".superseded.jsonl").exists()


def test_a_threshold_decodes_another_model(recipe, rival, tmp_path):
    methods = ["derta", {"name": "rival", "path": str(rival)}, "rival_strict"]
    settings = {"rival_strict": {"method": "rival", "refusal_threshold": 0.01}}
    run(with_methods(recipe, *methods, method_settings=settings), out=tmp_path / "run")
    for name, forced in (("rival", None), ("rival_strict", "0.01")):
        producer = producer_of(tmp_path / "run" / f"{name}-seed0")
        assert producer.get("refusal_threshold") == forced
    assert [one.own_format for one in read_contents(tmp_path / "run").models] == [False, True, True]


def test_an_adapter_is_loaded_on_its_model(recipe, tiny_model_dir, tmp_path):
    adapted = with_methods(recipe, "derta", **{"train.lora": {"r": 2}})
    run(adapted, out=tmp_path / "first")
    adapter = tmp_path / "first" / "derta-seed0" / "model"
    entry = {"name": "defence", "path": str(tiny_model_dir), "adapter": str(adapter)}
    run(with_methods(recipe, "base", entry), out=tmp_path / "second")
    again, first = (tmp_path / "second" / "defence-seed0", tmp_path / "first" / "derta-seed0")
    assert producer_of(again)["adapter"] == producer_of(first)["adapter"]
    texts = [[one.text for one in read_records(home / "replies.jsonl", Reply)] for home in (again, first)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ({"name": "derta", "path": "RIVAL"}, "methods: expected a name that is not built in, got 'derta'"),
        ({"name": "no/name", "path": "RIVAL"}, "methods: expected a name of"),
        ({"name": "strict", "path": "RIVAL"}, "methods: expected a name that is not built in, got 'strict'"),
        ({"name": "rival", "path": "/no/such/model"}, "methods: rival: /no/such/model: expected a model folder"),
        ({"name": "rival", "path": "RIVAL", "adapter": "RIVAL"}, "expected a folder with adapter_config.json"),
        ({"name": "rival", "path": "RIVAL", "revision": "v1"}, "expected no revision of a local folder, got 'v1'"),
    ],
)
def test_a_wrong_entry_is_refused_before_any_work(entry, part, recipe, rival):
    entry = {key: str(rival) if value == "RIVAL" else value for key, value in entry.items()}
    settings = {"strict": {"method": "derta", "rto_weight": 2}}
    loaded = with_methods(recipe, "base", entry, method_settings=settings)
    with pytest.raises(DertaError) as error:
        check_recipe(loaded, Registry().with_methods_of(loaded))
    assert part in str(error.value)


def test_a_template_of_another_model_is_checked_before_training(recipe, rival, tmp_path):
    template = tmp_path / "no_prefill.jinja"
    template.write_text("{{ raise_exception('nothing is allowed') }}")
    loaded = with_methods(recipe, "derta", {"name": "rival", "path": str(rival), "template": str(template)})
    with pytest.raises(DertaError, match="nothing is allowed"):
        run(loaded, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_variable_in_the_path_of_another_model_is_expanded(recipe, rival, tmp_path, monkeypatch):
    monkeypatch.setenv("DERTA_RIVAL", str(rival))
    run(with_methods(recipe, "base", {"name": "rival", "path": "$DERTA_RIVAL"}), out=tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["recipe"]["models"]["rival"]["path"] == "$DERTA_RIVAL"
    assert str(rival) not in json.dumps(manifest)
