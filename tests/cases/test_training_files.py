"""Training data as people have them: other columns, earlier turns, compressed and saved files, configurations."""

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from derta.config import load_recipe
from small_run import THINGS, write_jsonl

TRIPLES = [
    {"query": f"How do I paint {thing}?", "safe": f"Sorry, not {thing}.", "harmful": f"First take {thing}."}
    for thing in THINGS
]
ASKED = [f"Where is {thing}?" for thing in THINGS]


def chat(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def rows_of(derta, recipe, **data):
    """Write training rows of a recipe with other data; return them, and what the command printed."""
    out = recipe.parent / "rows.jsonl"
    words = [word for key, value in data.items() for word in ("--set", f"data.{key}={json.dumps(value)}")]
    called = derta("data", recipe, "--method", "derta", "--out", out, *words)
    assert called.code == 0, called.err
    return [json.loads(line) for line in out.read_text().splitlines()], " ".join(called.err.split())


def triples_with_an_index(folder):
    lists = {key: [row[key] for row in TRIPLES] for key in TRIPLES[0]}
    pq.write_table(pa.table(lists | {"__index_level_0__": list(range(len(TRIPLES)))}), folder / "t.parquet")
    lines = [f'{i},"{row["query"]}","{row["safe"]}","{row["harmful"]}"' for i, row in enumerate(TRIPLES)]
    (folder / "t.csv").write_text("\n".join([",query,safe,harmful", *lines]))
    write_jsonl(folder / "t.jsonl", [row | {"note": "mine"} for row in TRIPLES])
    return {"t.parquet": "__index_level_0__", "t.csv": "unnamed_1", "t.jsonl": "note"}


def test_triples_with_another_column_are_trained_and_the_column_is_named(derta, tmp_path, recipe):
    for name, column in triples_with_an_index(tmp_path).items():
        rows, printed = rows_of(derta, recipe, triples=[{"path": str(tmp_path / name)}])
        assert {row["term"] for row in rows} == {"safe", "rto", "helpful"}
        assert printed.count(f"columns that are not read: {column}") == 1


def test_preferences_are_triples(derta, tmp_path, recipe):
    asked = [{"prompt": row["query"], "chosen": row["safe"], "rejected": row["harmful"]} for row in TRIPLES]
    plain, _ = rows_of(derta, recipe, triples=[{"path": str(write_jsonl(tmp_path / "t.jsonl", TRIPLES))}])
    conversational = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            **{side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")},
        }
        for row in asked
    ]
    for rows in (asked, conversational):
        path = write_jsonl(tmp_path / "p.jsonl", rows)
        assert rows_of(derta, recipe, triples=[{"path": str(path)}])[0] == plain
    renamed = write_jsonl(
        tmp_path / "r.jsonl", [{"Q": row["prompt"], "good": row["chosen"], "bad": row["rejected"]} for row in asked]
    )
    columns = {"query": "Q", "safe": "good", "harmful": "bad"}
    assert rows_of(derta, recipe, triples=[{"path": str(renamed), "columns": columns}])[0] == plain


HELPFUL = {
    "prompt_completion": lambda question: {"prompt": question, "completion": "Here."},
    "dolly": lambda question: {"instruction": question, "context": "", "response": "Here.", "category": "qa"},
    "parts": lambda question: {
        "messages": [
            {"role": message["role"], "content": [{"type": "text", "text": message["content"]}]}
            for message in chat(question, "Here.")
        ]
    },
    "sharegpt": lambda question: {
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "Here."}]
    },
    "ultrafeedback": lambda question: {
        "prompt": question,
        "chosen": chat(question, "Here."),
        "rejected": chat(question, "No."),
        "messages": chat(question, "Here."),
        "score_chosen": 9.0,
    },
}


def files_of(folder):
    for name, make in HELPFUL.items():
        yield write_jsonl(folder / f"{name}.jsonl", [make(question) for question in ASKED])
    rows = [HELPFUL["prompt_completion"](question) for question in ASKED]
    (folder / "a.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    yield folder / "a.jsonl.gz"
    lists = [{"role": ["user", "assistant"], "content": [question, "Here."]} for question in ASKED]
    pq.write_table(pa.table({"messages": lists}), folder / "lists.parquet")
    yield folder / "lists.parquet"
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    yield folder / "saved"
    lines = [f"{question}\t\tHere.\tvanilla_benign" for question in ASKED]
    (folder / "jailbreaks.tsv").write_text("\n".join(["vanilla\tadversarial\tcompletion\tdata_type", *lines]))
    yield folder / "jailbreaks.tsv"


def test_every_form_of_helpful_data_gives_the_same_rows(derta, tmp_path, recipe):
    first, *others = [rows_of(derta, recipe, helpful=[{"path": str(path)}])[0] for path in files_of(tmp_path)]
    assert sum(row["term"] == "helpful" for row in first) == 4
    assert all(rows == first for rows in others)


def test_history_and_system_prompt_of_alpaca_are_in_the_row(derta, tmp_path, recipe):
    rows = [
        {"instruction": question, "output": "Red.", "system": "You sell kites.", "history": [["Hello", "Good day."]]}
        for question in ASKED
    ]
    rows, _ = rows_of(derta, recipe, helpful=[{"path": str(write_jsonl(tmp_path / "a.jsonl", rows))}])
    tokenizer = AutoTokenizer.from_pretrained(load_recipe(recipe).model.path)
    text = next(tokenizer.decode(row["input_ids"]) for row in rows if row["term"] == "helpful")
    assert "You sell kites." in text
    assert text.index("Hello") < text.index("Good day.") < text.index("Where is")


def test_a_configuration_reaches_the_hub(derta, recipe, monkeypatch):
    requested = []

    def load(*names, split):
        requested.append((*names, split))
        return datasets.Dataset.from_list([HELPFUL["dolly"](question) for question in ASKED])

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows_of(derta, recipe, helpful=[{"path": "org/name", "config": "behaviors", "split": "test"}])
    assert set(requested) == {("org/name", "behaviors", "test")}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"config": "x"}, "expected no `config` for a file, got 'x'; remove it"),
        ({"columns": {"prmpt": "title"}}, "columns: unknown name 'prmpt'; did you mean 'prompt'?"),
        ({"columns": {"prompt": "titel"}}, "a column of the file for 'prompt', got 'titel'; did you mean 'title'?"),
        ({}, "no known format has the fields title; expected one of: messages (messages);"),
        ({"format": "tables"}, "expected a format of auto, messages,"),
    ],
)
def test_a_source_that_does_not_fit_is_one_line_and_nothing_is_written(derta, tmp_path, recipe, source, reason):
    path, out = write_jsonl(tmp_path / "a.jsonl", [{"title": "Bread"}]), tmp_path / "rows.jsonl"
    helpful = json.dumps([{"path": str(path), **source}])
    called = derta("data", recipe, "--method", "derta", "--out", out, "--set", f"data.helpful={helpful}")
    assert (called.code, out.exists()) == (2, False)
    assert reason in " ".join(called.err.split())
    assert called.err.strip().count("\n") == 0
