import json

import pytest

from derta.config import load_recipe
from derta.errors import DataError
from derta.pipeline.data import prepare_data
from derta.pipeline.request_sources import limit_notes, section_requests


def test_no_seed_is_trained_on_the_prompts_of_all_seeds(recipe):
    """All models are asked the first seed's held-out requests, so these are held out of every seed's training."""
    alone, first, other = (
        prepare_data(load_recipe(recipe, overrides={"seeds": seeds})) for seeds in ([0], [0, 1, 2], [1])
    )
    asked = {request.text for request in first.held_out_requests}
    assert asked == {request.text for request in alone.held_out_requests}
    assert asked != {request.text for request in other.held_out_requests}
    assert not asked & {triple.query for triple in first.triples}


def test_helpful_rows_that_ask_what_is_held_out_are_dropped_and_counted(recipe, tmp_path):
    loaded = load_recipe(recipe)
    held_out, other = (request.text for request in prepare_data(loaded).held_out_requests)
    with (tmp_path / "helpful.jsonl").open("a") as file:
        for text in (held_out.upper(), other):
            file.write(json.dumps({"instruction": text, "output": "First clean the wood."}) + "\n")
    prepared = prepare_data(loaded)
    assert {request.text for request in prepared.held_out_requests} == {held_out, other}
    asked = {message.content.lower() for example in prepared.examples for message in example.messages}
    assert not asked & {held_out.lower(), other.lower()}
    assert any("helpful examples remain for training; dropped: 2 in_evaluation." in note for note in prepared.notes)


def test_only_a_section_that_decontaminates_takes_its_requests_out_of_training(recipe, tmp_path):
    loaded = load_recipe(recipe)
    trained = next(example.messages[0].content for example in prepare_data(loaded).examples)
    (tmp_path / "known.jsonl").write_text(json.dumps({"id": "known", "text": trained}) + "\n")
    section = {"suite": "helpfulness", "name": "known", "requests": {"path": str(tmp_path / "known.jsonl")}}
    for decontaminate in (True, False):
        evaluate = [*loaded.model_dump()["evaluate"], section | {"decontaminate": decontaminate}]
        prepared = prepare_data(load_recipe(recipe, overrides={"evaluate": evaluate}))
        kept = {example.messages[0].content for example in prepared.examples}
        assert (trained in kept) is not decontaminate


@pytest.mark.parametrize(
    ("methods", "counts"),
    [
        (["derta"], (6, None)),
        (["harmful_prefix", "rto", "vanilla_half"], (6, None)),
        (["derta", "vanilla"], (3, 6)),
        (["dpo"], (3, 6)),  # it is initialised from vanilla
    ],
)
def test_triples_are_reserved_for_vanilla_only_where_it_is_trained(recipe, methods, counts):
    values = {"methods": methods, "data.num_triples": None, "data.num_helpful": 8, "data.helpful_per_safety": 0.5}
    assert prepare_data(load_recipe(recipe, overrides=values)).counts[:2] == counts


def test_a_recipe_without_vanilla_may_train_on_all_triples(recipe):
    values = {"data.num_triples": 6, "data.num_helpful": 8}
    assert prepare_data(load_recipe(recipe, overrides={**values, "methods": ["derta"]})).counts.triples == 6
    with pytest.raises(DataError, match=r"expected 12 triples .*, only 6 are available"):
        prepare_data(load_recipe(recipe, overrides=values))


def test_a_limit_beyond_the_rows_takes_them_all_and_says_so_once(recipe, tmp_path, caplog):
    requests = {"path": str(tmp_path / "asked.jsonl"), "limit": 250}
    loaded = load_recipe(recipe, overrides={"evaluate": [{"attack": "direct", "requests": requests}]})
    [section] = loaded.evaluate
    assert [request.id for request in section_requests(section, held_out=[], seed=0)] == ["q0", "q1", "q2"]
    assert limit_notes(loaded) == [f"{tmp_path}/asked.jsonl: 3 requests are fewer than the limit of 250: all are used."]
    exact = [{"attack": "direct", "requests": {**requests, "limit": 3}}]
    assert limit_notes(load_recipe(recipe, overrides={"evaluate": exact})) == []
    sources = {
        "data.triples": [{"path": str(tmp_path / "triples.jsonl"), "limit": 9}],
        "data.helpful": [{"path": str(tmp_path / "helpful.jsonl"), "limit": 12}],
    }
    with caplog.at_level("INFO"):
        prepared = prepare_data(load_recipe(recipe, overrides=sources))
    assert (len(prepared.triples), len(prepared.examples)) == (6, 10)  # two of each are held out
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}/triples.jsonl: 8 triples are fewer than the limit of 9: all are used."
    ]
