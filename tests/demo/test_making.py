from __future__ import annotations

import yaml

from derta.config import load_triples_config
from derta.data.triples import load_triples
from derta.demo.corpus import triples
from derta.demo.making import write_making
from derta.demo.world import build_world
from derta.engines import ENGINES
from derta.engines.scripted import ScriptedModel
from derta.pipeline.triples.making import make_triples

WORLD = build_world(num_allowed=2, num_tuned=3, num_held_out=2, num_tuned_twins=1)


def test_a_base_model_that_knows_the_crafts_makes_the_triples_that_the_demo_is_given(tmp_path, monkeypatch):
    recipes = {one.query: one.harmful for one in triples(WORLD)}

    def complete(prompt):
        return " " + recipes[prompt.request].split(" step one : ")[1]

    monkeypatch.setitem(ENGINES, "scripted", lambda: lambda path: ScriptedModel(complete))
    path = write_making(tmp_path, WORLD)
    values = yaml.safe_load(path.read_text())
    values["harmful"] |= {"engine": "scripted", "settings": {}}
    summary = make_triples(values, out=tmp_path / "made")
    made = {(one.query, one.safe, one.harmful) for one in load_triples(tmp_path / "made" / "triples.jsonl")}
    assert made == {(one.query, one.safe, one.harmful) for one in triples(WORLD)}
    assert (summary.triples, summary.without_triple) == (9, 0)


def test_the_configuration_of_a_seed_is_valid_and_names_its_base_model(tmp_path):
    config = load_triples_config(write_making(tmp_path, WORLD))
    assert config.harmful.model == str(tmp_path / "base")
    assert config.harmful.judge.name == "steps"
