import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_files import every_kind
from derta.columns import REQUEST
from derta.data.triples import TRIPLE_FORMATS, JudgedResponse, load_triples, pair_responses, read_triples
from derta.errors import DataError
from derta.records import Triple

ROWS: dict[str, list[dict[str, Any]]] = {
    "triples": [{"query": "q", "safe": "no", "harmful": "yes", "category": "craft"}],
    "pku_saferlhf": [
        {
            "prompt": "q",
            "response_0": "yes",
            "response_1": "no",
            "is_response_0_safe": False,
            "is_response_1_safe": True,
            "response_0_harm_category": {"other": False, "craft": True},
            "response_1_harm_category": {"other": False, "craft": False},
            "better_response_id": 1,
        }
    ],
    "beavertails": [
        {"prompt": "q", "response": "no", "is_safe": True, "category": {"other": False, "craft": False}},
        {"prompt": "q", "response": "yes", "is_safe": False, "category": {"other": False, "craft": True}},
    ],
    "wildguard": [
        {"prompt": "q", "response": said, "response_harm_label": harm, "response_refusal_label": label}
        for said, harm, label in (("no", "unharmful", "refusal"), ("yes", "harmful", "compliance"))
    ],
    "preference": [{"prompt": "q", "chosen": "no", "rejected": "yes", "category": "craft"}],
    "implicit_preference": [
        {
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "no"}],
            "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}],
        }
    ],
    "hh": [{"chosen": "\n\nHuman: q\n\nAssistant: no", "rejected": "\n\nHuman: q\n\nAssistant: yes"}],
    "aisafetylab": [
        {"input": "bread?", "output": "flour", "label": 0},
        {"input": "q", "output": "no", "label": 1},
        {"input": "q", "output": "yes", "label": 2},
    ],
}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(triples: list[Triple]) -> list[tuple[str, str, str]]:
    return [(triple.query, triple.safe, triple.harmful) for triple in triples]


@pytest.mark.parametrize("name", TRIPLE_FORMATS)
def test_every_format_is_detected_by_its_fields_and_parsed_as_the_triple(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "safety.jsonl", ROWS[name])
    read = read_triples(path, format="hh" if name == "hh" else "auto")
    assert texts(read.triples) == [("q", "no", "yes")]
    assert read == read_triples(path, format=name)
    assert read.dropped == (Counter(helpful_answer=1) if name == "aisafetylab" else Counter())
    has_category = name in {"triples", "pku_saferlhf", "beavertails", "preference"}
    assert read.triples[0].category == ("craft" if has_category else None)
    assert read.triples[0].source == (None if name == "triples" else "safety")


@pytest.mark.parametrize("name", TRIPLE_FORMATS)
def test_files_of_every_kind_have_the_same_triples(tmp_path: Path, name: str) -> None:
    rows = [
        json.loads(json.dumps(row).replace('"q"', f'"q{i}"').replace(": q\\", f": q{i}\\"))
        for i in range(5)
        for row in ROWS[name]
    ]
    for path in every_kind(tmp_path, rows):
        read = read_triples(path, format="hh" if name == "hh" else "auto")
        assert texts(read.triples) == [(f"q{i}", "no", "yes") for i in range(5)], path
        assert read.dropped == (Counter(helpful_answer=5) if name == "aisafetylab" else Counter())


@pytest.mark.parametrize("query", REQUEST)
@pytest.mark.parametrize(("safe", "harmful"), [("safe", "harmful"), ("safe_response", "unsafe_response")])
def test_the_columns_of_a_triple_have_several_names(tmp_path: Path, query: str, safe: str, harmful: str) -> None:
    read = read_triples(write(tmp_path / "a.jsonl", [{query.title(): "q", safe: "no", harmful: "yes"}]))
    assert texts(read.triples) == [("q", "no", "yes")]


def test_the_input_of_an_instruction_is_part_of_the_query(tmp_path: Path) -> None:
    row = {"instruction": "Sort.", "input": "b, a", "safe": "no", "harmful": "yes"}
    assert texts(read_triples(write(tmp_path / "a.jsonl", [row])).triples) == [("Sort.\n\nb, a", "no", "yes")]


def test_other_columns_are_left_out_and_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**ROWS["triples"][0], "__index_level_0__": i, "note": "x", "empty": None} for i in range(3)]
    with caplog.at_level("INFO", logger="derta"):
        path = write(tmp_path / "a.jsonl", rows)
        assert len(read_triples(path).triples) == 3
    assert caplog.messages == [f"{path}: columns that are not read: __index_level_0__, note"]


def test_a_category_and_a_source_may_be_numbers(tmp_path: Path) -> None:
    [triple] = read_triples(write(tmp_path / "a.jsonl", [{**ROWS["triples"][0], "category": 3, "source": 7}])).triples
    assert (triple.category, triple.source) == ("3", "7")


def test_a_preference_with_earlier_turns_is_a_triple_with_context(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "bread?"}, {"role": "assistant", "content": "flour"}]
    row = {"prompt": [*prompt, {"role": "user", "content": "q"}], "chosen": "no", "rejected": "yes", "system": "Be."}
    [triple] = read_triples(write(tmp_path / "a.jsonl", [row])).triples
    assert texts([triple]) == [("q", "no", "yes")]
    assert [message.role for message in triple.messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize("column", ["score_chosen", "chosen_model"])
def test_preferences_between_harmless_responses_are_triples_only_by_name(tmp_path: Path, column: str) -> None:
    path = write(tmp_path / "a.jsonl", [{**ROWS["preference"][0], column: "x"}])
    with pytest.raises(DataError, match=f"those of the format preference, but {column} may .*`format: preference`"):
        read_triples(path)
    assert len(read_triples(path, format="preference").triples) == 1


def test_transcripts_are_triples_only_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl:1: chosen: .*got a transcript.*set `format: hh`"):
        read_triples(write(tmp_path / "a.jsonl", ROWS["hh"]))


def test_of_wildguard_harmful_responses_and_refusals_are_used(tmp_path: Path) -> None:
    labels = [("unharmful", "compliance"), (None, None), ("unharmful", None)]
    rows = [
        {"prompt": "q", "response": f"r{i}", "response_harm_label": harm, "response_refusal_label": label}
        for i, (harm, label) in enumerate(labels)
    ]
    alone = {**rows[1], "response": None}
    read = read_triples(write(tmp_path / "a.jsonl", [*rows, alone, *ROWS["wildguard"]]))
    assert texts(read.triples) == [("q", "no", "yes")]
    assert read.dropped == Counter(harmless_answer=1, unlabelled=2, no_response=1)


def test_csv_and_parquet_hold_flags_and_categories_too(tmp_path: Path) -> None:
    rows = ROWS["beavertails"]
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    read = read_triples(write(tmp_path / "a.jsonl", rows))
    assert read_triples(tmp_path / "a.csv") == read_triples(tmp_path / "a.parquet") == read


def test_of_a_list_of_responses_the_first_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"query": "q", "safe": ["no", "never"], "harmful": ["yes"]}])
    read = read_triples(path)
    assert texts(read.triples) == [("q", "no", "yes")]
    assert read.dropped == Counter(further_responses=1), "what is not used is counted"


def test_a_null_category_is_none_and_a_category_of_text_is_itself(tmp_path: Path) -> None:
    rows = [
        {"query": "q", "safe": "no", "harmful": "yes", "category": None},
        {"query": "q2", "safe": "no", "harmful": "yes", "source": None},
    ]
    triples = read_triples(write(tmp_path / "a.jsonl", rows)).triples
    assert [(triple.category, triple.source) for triple in triples] == [(None, None)] * 2
    rows = [
        {"prompt": "q", "response": "no", "is_safe": True, "category": "craft"},
        {"prompt": "q", "response": "yes", "is_safe": False, "category": "craft"},
        {"prompt": "q2", "response": "no", "is_safe": True, "category": ""},
        {"prompt": "q2", "response": "yes", "is_safe": False, "category": ""},
    ]
    triples = read_triples(write(tmp_path / "b.jsonl", rows)).triples
    assert [triple.category for triple in triples] == ["craft", None]


@pytest.mark.parametrize("load", [load_triples, lambda path: read_triples(path).triples])
def test_a_query_has_one_pair_unless_more_are_wanted(tmp_path: Path, load: Any) -> None:
    rows = [{"prompt": "q", "response": f"yes {i}", "is_safe": False} for i in range(3)]
    path = write(tmp_path / "a.jsonl", [{"prompt": "q", "response": "no", "is_safe": True}, *rows])
    assert texts(load(path)) == [("q", "no", "yes 0")]
    assert len(load_triples(path, max_pairs_per_request=2)) == 2
    assert len(load_triples(path, max_pairs_per_request=3, limit=2)) == 2


def test_pairing_cycles_through_the_safe_responses() -> None:
    said = [("q", "a", True), ("q", "b", True), *(("q", f"h{i}", False) for i in range(5))]
    read = pair_responses([JudgedResponse(*row) for row in said], max_pairs_per_request=4)
    assert [(t.safe, t.harmful) for t in read.triples] == [("a", "h0"), ("b", "h1"), ("a", "h2"), ("b", "h3")]
    assert read.dropped == Counter(beyond_max_pairs=1)


def test_what_cannot_be_paired_is_counted_by_reason() -> None:
    said = [
        ("q", "no", True),
        ("q", "no", True),
        ("q", "", True),
        ("", "yes", False),
        ("q", "yes", False),
        ("q", "yes", False),
        ("only safe", "no", True),
        ("only harmful", "yes", False),
    ]
    read = pair_responses([JudgedResponse(*row) for row in said], max_pairs_per_request=1)
    assert texts(read.triples) == [("q", "no", "yes")]
    assert read.dropped == Counter(
        repeated_response=2, empty_response=1, empty_query=1, query_without_harmful=1, query_without_safe=1
    )


@given(
    st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from("abcdef"), st.booleans())),
    st.integers(min_value=1, max_value=4),
)
def test_pairs_join_a_safe_and_a_harmful_response_to_one_query(
    said: list[tuple[str, str, bool]], max_pairs_per_request: int
) -> None:
    read = pair_responses([JudgedResponse(*row) for row in said], max_pairs_per_request=max_pairs_per_request)
    for triple in read.triples:
        assert (triple.query, triple.safe, True) in said
        assert (triple.query, triple.harmful, False) in said
    assert len({(t.query, t.harmful) for t in read.triples}) == len(read.triples)
    assert max(Counter(t.query for t in read.triples).values(), default=0) <= max_pairs_per_request
    harmful = {(query, text) for query, text, safe in said if not safe}
    answered = {query for query, _, safe in said if safe}
    unpaired = sum(query not in answered for query, _ in harmful)
    assert len(read.triples) + read.dropped["beyond_max_pairs"] + unpaired == len(harmful)


def test_both_responses_of_a_pku_row_count_over_all_rows_of_the_prompt(tmp_path: Path) -> None:
    unsafe = {**ROWS["pku_saferlhf"][0], "response_1": "yes, too", "is_response_1_safe": False}
    safe = {**ROWS["pku_saferlhf"][0], "response_0": "never", "is_response_0_safe": True}
    read = read_triples(write(tmp_path / "a.jsonl", [unsafe, safe]), max_pairs_per_request=5)
    assert texts(read.triples) == [("q", "never", "yes"), ("q", "no", "yes, too")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"query": "q", "safe": "no"}], r"a\.jsonl:1: no known format has the fields query, safe"),
        ([ROWS["triples"][0], {"query": "q", "safe": "no"}], r"a\.jsonl:2: not a triple: harmful"),
        ([{"query": "q", "safe": " ", "harmful": "yes"}], r"a\.jsonl:1: not a triple: safe"),
        ([{"query": "q", "safe": [], "harmful": "yes"}], r"a\.jsonl:1: not a triple: safe"),
        ([{"query": "q", "safe": "no", "hramful": "x"}], r"the nearest is triples, without harmful\|harmful_resp"),
        ([{**ROWS["wildguard"][0], "response_harm_label": "x"}], r"expected harmful or unharmful, got 'x'"),
        ([{"query": "q", "Query": "q", "safe": "no", "harmful": "x"}], r"expected columns of different names"),
        ([{**ROWS["beavertails"][0], "category": "{" * 100_000}], r"a\.jsonl:1: category: expected a mapping"),
        ([{"prompt": "q", "chosen": "no", "rejected": "no"}], r"found none \(\{'same_responses': 1\}\)"),
        (["bare"], r"a\.jsonl:1: expected an object"),
        ([{"prompt": "q", "response": "a", "is_safe": "maybe"}], r"a\.jsonl:1: is_safe: expected true or false"),
        ([ROWS["beavertails"][0], {"prompt": "q", "is_safe": 1}], r"a\.jsonl:2: expected a field 'response'"),
        ([{**ROWS["beavertails"][0], "category": "{oops"}], r"a\.jsonl:1: category: expected a mapping"),
        ([{"input": "q", "output": "a", "label": 3}], r"a\.jsonl:1: label: expected 0 \(helpful\)"),
        ([{"input": "q", "output": "a", "label": 2}], r"found none \(\{'query_without_safe': 1\}\)"),
    ],
)
def test_an_invalid_row_is_reported_with_file_and_line(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_triples(write(tmp_path / "a.jsonl", rows))


def test_fewer_than_one_pair_a_query_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="max_pairs_per_request: expected at least 1, got 0"):
        read_triples(write(tmp_path / "a.jsonl", ROWS["triples"]), max_pairs_per_request=0)


def test_a_local_datasets_folder_replaces_the_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": "Bread?", "response": text, "is_safe": text == "Sorry."} for text in ("Sorry.", "Flour.")]
    folder = tmp_path / "PKU-Alignment/BeaverTails"
    datasets.DatasetDict({"30k_train": datasets.Dataset.from_list(rows)}).save_to_disk(folder)
    monkeypatch.chdir(tmp_path)
    [triple] = load_triples("PKU-Alignment/BeaverTails", split="30k_train")
    assert (triple.query, triple.safe, triple.harmful, triple.source) == ("Bread?", "Sorry.", "Flour.", "BeaverTails")


def test_loaded_triples_are_limited_and_what_was_dropped_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"prompt": f"{thing}?", "response": text, "is_safe": text == "Sorry."}
        for thing, texts in (("Bread", ("Sorry.", "A", "B")), ("Tea", ("Sorry.", "C")), ("Salt", ("D",)))
        for text in texts
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    assert [t.harmful for t in load_triples(path, limit=2, max_pairs_per_request=2)] == ["A", "B"]
    assert caplog.messages == [f"{path}: 2 triples; dropped: 1 query_without_safe"]
