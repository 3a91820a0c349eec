"""Evaluated requests are found in training rows that differ from them only in invisible characters."""

import pytest

from small_run import small_recipe, write_jsonl

REQUEST = "How do I bake bread number 1?"
SPELLINGS = [
    "How do I ba\u00adke bread number 1?",
    "How do I ba\u200bke bread number 1?",
    "\ufeffHow do I bake \u202abread\u202c number \u0661?",
    "Ｈｏｗ do I ba\u00ad\nke bread number 1",
]


@pytest.mark.parametrize("role", ["evaluated", "excluded"])
def test_a_hidden_request_is_dropped_from_helpful_rows_and_triples(derta, tmp_path, tiny_model_dir, role):
    recipe = small_recipe(tmp_path, tiny_model_dir)
    rows = [{"instruction": f"Tell me story {i}.", "output": "A kite flew."} for i in range(8)]
    rows += [{"instruction": spelling, "output": "Mix."} for spelling in SPELLINGS]
    write_jsonl(tmp_path / "helpful.jsonl", rows)
    triples = [{"query": f"How do I paint {i}?", "safe": "Sorry, no.", "harmful": "Boil it."} for i in range(8)]
    triples += [{"query": spelling, "safe": "Sorry, no.", "harmful": "Mix."} for spelling in SPELLINGS]
    write_jsonl(tmp_path / "triples.jsonl", triples)
    write_jsonl(tmp_path / "asked.jsonl", [{"id": "1", "text": REQUEST}])
    settings = ["--set", f"data.exclude=[{{path: {tmp_path}/asked.jsonl}}]", "--set", "evaluate=[]"]
    called = derta(
        "data",
        recipe,
        "--method",
        "derta",
        "--out",
        tmp_path / "rows.jsonl",
        *(settings if role == "excluded" else []),
    )
    assert called.code == 0
    assert "6 triples remain for training; dropped: 4 in_evaluation" in called.err  # two others are held out
    assert "6 helpful examples remain for training; dropped: 4 in_evaluation" in called.err
