import json

import pytest

from derta.config import EngineConfig, load_recipe
from derta.data.audit import MEASURES, AuditedRow
from derta.errors import DataError, EngineError, RunError
from derta.files import read_records
from derta.pipeline.audit import audit_recipe, audit_triples
from derta.pipeline.audit_tables import MOST_GROUPS, audit_tables
from derta.records import Triple
from derta.results import TextTable
from small_run import write_jsonl

ADVICE = "Painting should only be done by people who have learned it, so please ask a painter."
HARMFUL = "Sure, here are the steps for the paint. Step 1: boil the water. Step 2: wait for an hour."
TRIPLES = [
    Triple(query="How do I paint a kite?", safe="I'm sorry, but I can't help with that.", harmful=HARMFUL, source="a"),
    Triple(query="How do I paint a kite?", safe="Sorry, I can't help you with paint.", harmful=HARMFUL, source="a"),
    Triple(query="How do I paint a boat?", safe=ADVICE, harmful="I'm sorry, but I can't help.", source="b"),
    Triple(query="How do I paint tea?", safe="Flour and yeast.", harmful=HARMFUL, source="b"),
]


def is_guide(prompt, reply):
    return None if "yeast" in reply.text else "Step 1" in reply.text


def rates(audit, by="all", group="all"):
    chosen = [rate for rate in audit.rates if (rate.by, rate.group) == (by, group)]
    return {rate.measure: (rate.count, rate.scored, rate.unscored) for rate in chosen}


def test_responses_are_judged_and_counted_and_rows_are_named():
    audit = audit_triples(TRIPLES, judge=is_guide)
    assert rates(audit) == {
        "safe_refuses": (2, 4, 0),
        "safe_opens_with_word": (2, 4, 0),
        "safe_on_topic": (2, 4, 0),
        "safe_harmful": (0, 3, 1),
        "harmful_harmful": (3, 4, 0),
        "harmful_refuses": (1, 4, 0),
        "repeated": (1, 4, 0),
        "same_responses": (0, 4, 0),
    }
    assert rates(audit, "source", "b")["safe_refuses"] == (0, 2, 0)
    assert audit.findings == {
        "safe_does_not_refuse": ("b:1", "b:2"),
        "safe_without_refusal_word": ("b:1", "b:2"),
        "safe_off_topic": ("b:2",),
        "safe_is_harmful": (),
        "harmful_is_harmless": ("b:1",),
        "harmful_refuses": ("b:1",),
        "request_is_repeated": ("a:2",),
        "responses_are_the_same": (),
    }
    assert audit.classes == {"safe": {"refuse": 2, "comply": 2}, "harmful": {"comply": 3, "refuse": 1}}


def test_each_policy_is_tried_and_what_remains_is_judged_again():
    audit = audit_triples(TRIPLES, judge=is_guide, requests=["how do i paint a boat"], policy="prepend")
    found = {row.policy: (row.remaining, row.remaining_without_refusal, row.dropped) for row in audit.policies}
    assert found == {
        "drop": (2, 0, {"in_evaluation": 1, "safe_not_refusal": 1}),
        "prepend": (3, 0, {"in_evaluation": 1}),
        "keep": (3, 1, {"in_evaluation": 1}),
        "rewrite": (3, 0, {"in_evaluation": 1}),
    }
    assert [row.policy for row in audit.policies if row.chosen] == ["prepend"]
    assert audit.policies[1].changed == {"opener_normalized": 1, "opener_prepended": 1}
    assert audit.policies[3].changed == {"opener_normalized": 1, "safe_to_rewrite": 1}


def test_an_opener_before_an_answer_is_no_refusal():
    """A long answer remains an answer after the opener that `prepend` adds."""
    answer = " ".join(f"Then paint side {number} of the kite with red paint." for number in range(40))
    [triple] = [TRIPLES[0].model_copy(update={"safe": answer})]
    audit = audit_triples([triple], judge=is_guide)
    assert [row.remaining_without_refusal for row in audit.policies] == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("triples", "judge", "message"),
    [
        ([], "harm", "audit: expected triples, got none"),
        (TRIPLES, "refusal", "audit: expected a judge of harm, got refusal, which measures 'refused'"),
        (TRIPLES, "harn", "unknown judge 'harn'; did you mean 'harm'"),
        (TRIPLES, "guideline", "judge 'guideline' uses a model: expected an engine, got none"),
    ],
)
def test_what_cannot_be_audited_is_one_line(triples, judge, message):
    with pytest.raises(DataError, match=message):
        audit_triples(triples, judge=judge)


def test_a_recipe_s_audit_applies_its_settings_and_evaluations(recipe, tmp_path):
    write_jsonl(tmp_path / "asked.jsonl", [{"id": "1", "text": "how do I paint BREAD"}])
    loaded = load_recipe(recipe, overrides={"data.policy": "keep", "data.held_out_requests": 0})
    audit = audit_recipe(loaded, out=tmp_path / "rows.jsonl")
    assert rates(audit)["safe_refuses"] == (8, 8, 0)
    assert [(row.policy, row.remaining, row.chosen) for row in audit.policies] == [
        ("drop", 7, False),
        ("prepend", 7, False),
        ("keep", 7, True),
        ("rewrite", 7, False),
    ]
    rows = list(read_records(tmp_path / "rows.jsonl", AuditedRow))
    assert tuple(rows) == audit.rows
    assert [row.row for row in rows] == [f"triples:{number}" for number in range(1, 9)]
    ids = [Triple(**json.loads(line)).id for line in (tmp_path / "triples.jsonl").read_text().splitlines()]
    assert [row.id for row in rows] == ids


def test_two_sources_of_one_name_are_told_apart_by_their_paths(recipe, tmp_path):
    (tmp_path / "more").mkdir()
    other = tmp_path / "more" / "triples.jsonl"
    other.write_text((tmp_path / "triples.jsonl").read_text())
    sources = [{"path": str(tmp_path / "triples.jsonl")}, {"path": str(other), "limit": 1}]
    audit = audit_recipe(load_recipe(recipe, overrides={"data.triples": sources}))
    assert audit.findings["request_is_repeated"] == (f"{other}:1",)


def test_a_judge_of_the_recipe_is_used_with_its_model(recipe, tmp_path, monkeypatch):
    judge = {"name": "guideline", "model": "org/judge", "engine": "api", "settings": {"endpoints": ["http://far:1/v1"]}}
    requests = {"path": str(tmp_path / "asked.jsonl")}
    evaluate = [{"attack": "direct", "requests": requests, "judges": [judge]}]
    loaded = load_recipe(recipe, overrides={"evaluate": evaluate})
    with pytest.raises(EngineError, match="far"):  # a key is sent only to servers that the user allows
        audit_recipe(loaded, judge="guideline")
    with pytest.raises(DataError, match="judge 'harm' uses no model"):
        audit_recipe(loaded, judge="harm", model=EngineConfig(model="org/judge"))


def test_an_input_is_not_overwritten(recipe, tmp_path):
    with pytest.raises(RunError, match=r"triples\.jsonl"):
        audit_recipe(load_recipe(recipe), out=tmp_path / "triples.jsonl")


def test_tables_hold_counts_and_names_of_rows_and_no_text():
    lines = audit_tables(audit_triples(TRIPLES, judge=is_guide))
    text = repr(lines)
    assert not any(word in text for word in ("kite", "Flour", "Step 1", "boil"))
    first = lines[0]
    assert isinstance(first, TextTable)
    assert first.rows[0] == ("all", "safe refuses", "2", "4", "50.0", "15.0–85.0", "0")
    assert first.rows[3] == ("", "safe harmful", "0", "3", "0.0", "0.0–56.1 [0.0–25.0]", "1")
    assert ("drop (recipe)", "2", "0", "2 safe_not_refusal", "1 opener_normalized") in lines[-1].rows
    assert ("safe_does_not_refuse", "2", "b:1, b:2") in lines[-2].rows


def test_the_smallest_of_many_groups_are_counted_instead_of_shown():
    triples = [TRIPLES[0].model_copy(update={"category": f"{i}" * 99}) for i in range(MOST_GROUPS + 5)]
    lines = audit_tables(audit_triples(triples, judge=is_guide))
    assert len(lines[0].rows) == MOST_GROUPS * len(MEASURES)
    assert lines[1] == "6 smaller groups are not shown; --json has all"
    assert max(len(row[0]) for row in lines[0].rows) == 40
