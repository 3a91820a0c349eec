import pytest
from pydantic import ValidationError

from derta.config import DEFAULT_OPENER, DataSection, PrepareConfig
from derta.records import REFUSAL_WORDS

SOURCES = {"triples": [{"path": "t.jsonl"}], "helpful": [{"path": "h.jsonl"}]}


def test_the_default_opener_starts_with_a_refusal_word():
    assert DEFAULT_OPENER.startswith(REFUSAL_WORDS)


def test_the_defaults_mix_ten_helpful_examples_with_each_safety_instance_and_hold_nothing_out():
    config = PrepareConfig()
    assert (config.policy, config.helpful_per_safety, config.match_instances) == ("drop", 10, True)
    assert (config.num_triples, config.num_helpful) == (None, None)
    assert (config.held_out_requests, config.held_out_helpful) == (0, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("policy", "guess"),
        ("num_triples", 0),
        ("num_helpful", -1),
        ("helpful_per_safety", -0.1),
        ("helpful_per_safety", 1001),
        ("held_out_requests", -1),
        ("held_out_helpful", -1),
        ("max_pairs_per_request", 0),
        ("max_pair", 1),
    ],
)
def test_an_invalid_value_or_unknown_key_is_refused_by_its_name(field, value):
    with pytest.raises(ValidationError) as caught:
        DataSection.model_validate({**SOURCES, field: value})
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


@pytest.mark.parametrize("source", SOURCES)
def test_a_recipe_names_its_triples_and_its_helpful_examples(source):
    with pytest.raises(ValidationError) as caught:
        DataSection.model_validate({name: rows for name, rows in SOURCES.items() if name != source})
    [error] = caught.value.errors()
    assert (error["type"], error["loc"]) == ("missing", (source,))


def test_only_the_required_sources_have_rows_by_default():
    section = DataSection.model_validate(SOURCES)
    assert [source.path for source in (*section.triples, *section.helpful)] == ["t.jsonl", "h.jsonl"]
    assert (section.preferences, section.exclude, section.max_pairs_per_request) == ((), (), 1)
