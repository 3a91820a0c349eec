"""Rows, records and dropped rows of the public research data in each role of training data."""

import pytest

from derta.data.helpful import read_examples
from derta.data.preferences import read_preferences
from derta.data.triples import read_triples
from derta.errors import DataError
from derta.sources import read_rows
from research_data import research_path

pytestmark = pytest.mark.data

READERS = {"triples": read_triples, "helpful": read_examples, "pairs": read_preferences}
# Rows, records, and dropped rows by reason.
COUNTS = [
    ("triples/saferlhf.jsonl", "triples", "auto", (972, 972, {})),
    ("triples/aisafetylab.json", "triples", "auto", (1079, 99, {"helpful_answer": 490, "beyond_max_pairs": 391})),
    ("triples/aisafetylab.json", "helpful", "auto", (1079, 490, {"refusal_or_harmful": 589})),
    ("helpful/alpaca.json", "helpful", "auto", (985, 985, {})),
    ("helpful/coconot_pref.jsonl", "helpful", "auto", (874, 874, {})),
    ("helpful/coconot_pref.jsonl", "pairs", "auto", (874, 874, {})),
    ("helpful/coconot_pref.jsonl", "triples", "preference", (874, 874, {})),
    ("over_refusal/alpaca_eval.json", "helpful", "auto", (803, 803, {})),
    ("helpfulness/gsm8k_test.jsonl", "helpful", "auto", (1319, 1319, {})),
]


@pytest.mark.parametrize(("name", "role", "form", "counts"), COUNTS)
def test_every_row_is_a_record_or_counted(name, role, form, counts):
    path = research_path(*name.split("/"))
    records, dropped, *_ = READERS[role](path, format=form)
    assert (sum(1 for _ in read_rows(path)), len(records), dict(dropped)) == counts


@pytest.mark.parametrize(
    ("name", "role", "reason"),
    [
        ("helpful/coconot_pref.jsonl", "triples", "chosen_model, rejected_model may tell"),
        ("labelled/f_gptfuzz_evaluate.csv", "helpful", "label may tell"),
        ("labelled/f_xstest_completions_llama2new_gpteval.csv", "helpful", "final_label may tell"),
        ("labelled/phtest_dev_replies.csv", "helpful", "label may tell"),
        ("over_refusal/coconot_contrast.jsonl", "helpful", r"found none \(\{'empty_turn': 374\}\)"),
        ("requests/harmbench_val.csv", "triples", "no known format has the fields"),
    ],
)
def test_data_of_another_role_is_refused(name, role, reason):
    with pytest.raises(DataError, match=reason):
        READERS[role](research_path(*name.split("/")))
