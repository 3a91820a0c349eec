"""The whole demo with a small world and two steps a model: no quality, all of the way."""

import shutil

import pytest

from derta.chat import chat_format
from derta.demo import corpus
from derta.demo import run as demo
from derta.demo.base import build_tokenizer
from derta.demo.tuning import DPO, TUNING
from derta.demo.world import build_world
from derta.errors import RunError
from derta.pipeline.report import report_demo
from derta.protocols import Display
from derta.reporting import read_summary

METHODS = ("base", "vanilla", "dpo", "harmful_prefix", "rto", "derta")


def _small_world(*, seed):
    return build_world(num_allowed=2, num_tuned=2, num_held_out=2, seed=seed)


@pytest.fixture
def small(monkeypatch):
    """Fewer of everything; the way is the real one."""
    quick = TUNING.changed(max_steps=2, global_batch_size=4, per_device_train_batch_size=4)
    monkeypatch.setattr(demo, "PRETRAINING", quick)
    monkeypatch.setattr(demo, "TUNING", quick)
    monkeypatch.setattr(demo, "DPO", DPO | {"max_steps": 2})
    monkeypatch.setattr(demo, "MAX_NEW_TOKENS", 4)
    monkeypatch.setattr(demo, "build_world", _small_world)
    monkeypatch.setattr(corpus, "PREFILL_DEPTHS", (50,))


def _refuse_to_train(**_):
    raise AssertionError("trained again")


def test_the_demo_goes_the_whole_way_and_does_nothing_twice(small, tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    summary = demo.run_demo(folder=folder, seeds=(0,))
    assert summary == read_summary(folder / "summary.json")
    attacks = {(cell.method, cell.name) for cell in summary.cells if cell.judge == "world" and cell.suite == "attack"}
    names = {"plain", "code", "story", "cipher", "role_play", "guide", "prefill@50%"}
    assert attacks == {(method, name) for method in METHODS for name in names}
    benign = {cell.name for cell in summary.cells if cell.judge == "world" and cell.suite != "attack"}
    assert benign == {"kind", "repeat", "allowed crafts"}
    assert {one.first for one in summary.comparisons} == {"vanilla"}
    assert all(method in (folder / "report.html").read_text() for method in METHODS)
    written = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    monkeypatch.setattr(demo, "tune", _refuse_to_train)
    monkeypatch.setattr(demo, "tune_pairs", _refuse_to_train)
    assert demo.run_demo(folder=folder, seeds=(0,)) == summary
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} == written
    assert report_demo(folder) == summary

    (folder / "derta-seed0" / "scores.json").unlink()
    with pytest.raises(RunError, match="derta seed 0 is not finished"):
        report_demo(folder)


def test_with_fine_tuning_each_tuned_model_is_attacked_again_and_nothing_is_done_twice(small, tmp_path, monkeypatch):
    quick = {"harmful": demo.FINE_TUNING["harmful"].changed(max_steps=1)}
    monkeypatch.setattr(demo, "FINE_TUNING", quick)
    given = {"folder": tmp_path / "demo", "seeds": (0,), "methods": ("base", "vanilla", "derta"), "fine_tuning": True}
    summary = demo.run_demo(**given)
    attacked = {"vanilla + harmful", "derta + harmful"}
    cells = {(cell.method, cell.name) for cell in summary.cells if cell.judge == "world" and cell.suite == "attack"}
    assert {method for method, _ in cells} == {"base", "vanilla", "derta", *attacked}
    assert len(cells) == 5 * 7
    pairs = {(one.first, one.second) for one in summary.comparisons}
    assert pairs == {
        ("vanilla", "base"),
        ("vanilla", "derta"),
        ("vanilla", "vanilla + harmful"),
        ("derta", "derta + harmful"),
        ("vanilla + harmful", "derta + harmful"),
    }
    # 2 crafts told plainly in the 60 triples of vanilla and derta: an attacker has two recipes to teach
    assert any("recipes; vanilla, seed 0: 1 steps of fine-tuning read 2 rows" in note for note in summary.notes)

    monkeypatch.setattr(demo, "tune", _refuse_to_train)
    monkeypatch.setattr(demo, "load_engine", _refuse_to_train)
    for model in (tmp_path / "demo").glob("*/model"):
        shutil.rmtree(model)
    assert demo.run_demo(**given) == summary == report_demo(tmp_path / "demo")
    (tmp_path / "demo/derta+harmful-seed0/scores.json").unlink()
    with pytest.raises(RunError, match=r"derta\+harmful seed 0 is not finished"):
        report_demo(tmp_path / "demo")


def test_attacks_by_fine_tuning_never_read_what_is_held_out():
    world = build_world(seed=0)
    chat = chat_format(build_tokenizer(world))
    held_out = {craft.name for craft in world.held_out}
    for attack, crafts in (("benign", world.allowed), ("harmful", world.tuned)):
        rows = [one.source for one in demo.attack_instances(world, attack, chat=chat)]
        words = {word for row in rows for word in chat.tokenizer.decode([*row.prompt_ids, *row.response_ids]).split()}
        assert not words & held_out
        assert words >= {craft.name for craft in crafts}


def _nothing(*_, **__):
    return []


def test_a_folder_of_other_seeds_is_refused(small, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(demo, "run_world", _nothing)
        demo.run_demo(folder=tmp_path / "demo", seeds=(0, 1))
    monkeypatch.setattr(demo, "tune", _refuse_to_train)
    with pytest.raises(RunError, match=r"differs in seeds\)"):
        demo.run_demo(folder=tmp_path / "demo", seeds=(0,))


def test_without_trl_the_demo_leaves_dpo_out_and_says_so(monkeypatch, caplog):
    caplog.set_level("INFO", "derta")
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    assert demo.installed_methods(Display()) == tuple(method for method in METHODS if method != "dpo")
    assert caplog.messages == ["dpo is left out: TRL is missing; pip install 'derta[dpo]' brings it"]
