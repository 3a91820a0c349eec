import pytest

from derta.config.faults import parse_with_faults

DATA = {"triples": "t.jsonl", "helpful": "h.jsonl"}
GOOD = {"model": {"path": "m"}, "data": DATA}


def test_a_recipe_without_a_fault_is_the_recipe():
    parsed = parse_with_faults(GOOD | {"train": {"lora": True, "max_steps": 3}})
    assert parsed.faults == []
    assert parsed.recipe is not None
    assert parsed.recipe.train.lora is not None
    assert parsed.recipe.train.settings["max_steps"] == 3


@pytest.mark.parametrize(
    ("values", "faults"),
    [
        ({}, ["`model`: expected a value, got none", "`data`: expected a value, got none"]),
        ({"model": {}, "data": DATA}, ["`model.path`: expected a value, got none"]),
        ({"model": "m", "data": DATA}, ["`model`: expected a mapping of keys, got 'm'"]),
        ({"model": {"path": "m"}, "data": {"triples": 5}}, ["`data.triples`", "`data.helpful`"]),
        (GOOD | {"data": DATA | {"helpful": [{"pth": "x"}, "y"]}}, ["`data.helpful.0.path`", "unknown key `data.hel"]),
        (GOOD | {"train": {"lora": {"rank": 8, "r": 0}}}, ["`train.lora.r`", "unknown key `train.lora.rank`"]),
        (
            GOOD | {"train": {"reference": True, "rto_weight": 2, "tree_rows": True, "epochs": 1}},
            ["unknown key `train.epochs`", "`train.reference`: the released code has no tree_rows"],
        ),
        (GOOD | {"train": None}, ["`train`: expected a mapping of keys, got nothing"]),
        (GOOD | {"evaluate": "x", "seeds": ["a"]}, ["`seeds.0`", "`evaluate`: expected a list"]),
        (GOOD | {"fine_tuning_attacks": [{"name": "a", "helpful": "h"}] * 2}, ["different name for each"]),
    ],
)
def test_all_faults_are_found_in_the_order_of_the_sections(values, faults):
    found = parse_with_faults(values).faults
    assert len(found) == len(faults), found
    assert all(part in fault for part, fault in zip(faults, found, strict=True)), found


def test_entries_keep_their_numbers_where_others_are_removed():
    entries = [
        {"requests": "a", "atack": "x", "suit": "y"},
        {"judges": ["refusal"]},
        {"requests": "b"},
        {"name": "n/o"},
    ]
    parsed = parse_with_faults(GOOD | {"evaluate": entries})
    assert parsed.recipe is not None
    assert [getattr(one.requests, "path", None) for one in parsed.recipe.evaluate] == ["a", "b"]
    assert parsed.evaluate == [0, 2]
    keys = [fault.split("`")[1] for fault in parsed.faults]
    assert keys == ["evaluate.0.atack", "evaluate.0.suit", "evaluate.1", "evaluate.3.name", "evaluate.3"]


def test_the_given_values_are_unchanged():
    values = GOOD | {"train": {"epochs": 1}}
    parse_with_faults(values)
    assert values["train"] == {"epochs": 1}
