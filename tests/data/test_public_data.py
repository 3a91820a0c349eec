"""The readers on the public research data, where it is at hand: counts only."""

import os
from collections import Counter
from pathlib import Path

import pytest

from derta.data.cleaning import clean_examples, clean_triples
from derta.data.helpful import read_examples
from derta.data.requests import load_requests
from derta.data.triples import read_triples

FOLDER = os.environ.get("DERTA_DATA")
DATA = Path(FOLDER or "")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FOLDER, reason="DERTA_DATA does not name the folder of the public research data"),
]
REQUESTS = {
    ("published/requests.jsonl", "auto"): 198,
    ("requests/harmbench_val.csv", "auto"): 78,
    ("requests/harmbench_test.csv", "auto"): 318,
    ("requests/do_not_answer.csv", "auto"): 910,
    ("over_refusal/xstest_prompts.csv", "xstest_safe"): 247,
    ("over_refusal/xstest_prompts.csv", "xstest_unsafe"): 198,
    ("over_refusal/alpaca_eval.json", "auto"): 803,
    ("over_refusal/phtest_dev.csv", "auto"): 1483,
    ("over_refusal/phtest_dev.csv", "phtest_harmless"): 942,
    ("over_refusal/phtest_dev.csv", "phtest_controversial"): 541,
    ("over_refusal/coconot_contrast.jsonl", "auto"): 374,
    ("helpfulness/gsm8k_test.jsonl", "auto"): 1319,
    ("helpfulness/mmlu.zip", "auto"): 14_042,
    ("published/prompts_codeattack.jsonl", "auto"): 198,
    ("published/prompts_completing.jsonl", "auto"): 198,
}


@pytest.mark.parametrize(("name", "format"), REQUESTS)
def test_every_request_is_read(name: str, format: str) -> None:
    assert len(load_requests(DATA / name, format=format)) == REQUESTS[name, format]


def evaluation_requests() -> list[str]:
    return [request.text for name, format in REQUESTS for request in load_requests(DATA / name, format=format)]


def test_mmlu_questions_read_as_the_paper_s_outputs_have_them() -> None:
    # the other 13 differ in blanks and punctuation: the paper's copy of MMLU is another
    ours = {request.text: request.answer for request in load_requests(DATA / "helpfulness/mmlu.zip")}
    published = load_requests(DATA / "published/mmlu_llama3-8b_derta.jsonl")
    found = [request for request in published if request.text in ours]
    assert (len(found), len(published)) == (487, 500)
    assert all(request.answer == f"-{ours[request.text]}" for request in found)


def test_triples_are_read_and_cleaned() -> None:
    read = read_triples(DATA / "triples/saferlhf.jsonl")
    assert (len(read.triples), read.dropped) == (972, Counter())
    clean = clean_triples(read.triples, evaluation_requests=evaluation_requests(), policy="prepend")
    assert (len(clean.triples), clean.dropped) == (908, Counter(duplicate=64))
    assert clean.changed == Counter(opener_prepended=864)
    strict = clean_triples(read.triples, evaluation_requests=[], policy="drop")
    assert strict.dropped == Counter(safe_not_refusal=924, duplicate=4)


@pytest.mark.parametrize(("pairs", "read_count", "in_evaluation"), [(1, 99, 2), (5, 490, 10)])
def test_responses_are_paired_and_requests_of_the_evaluation_are_dropped(
    pairs: int, read_count: int, in_evaluation: int
) -> None:
    read = read_triples(DATA / "triples/aisafetylab.json", max_pairs_per_request=pairs)
    assert len(read.triples) == read_count
    assert read.dropped["beyond_max_pairs"] == 490 - read_count
    clean = clean_triples(read.triples, evaluation_requests=evaluation_requests(), policy="drop", normalize_to="Sorry")
    assert clean.dropped == Counter(in_evaluation=in_evaluation)
    assert clean.changed == Counter(opener_normalized=read_count - in_evaluation)


def test_helpful_rows_are_read_and_cleaned() -> None:
    alpaca = read_examples(DATA / "helpful/alpaca.json")
    assert (len(alpaca.examples), alpaca.dropped) == (985, Counter())
    clean = clean_examples(alpaca.examples, evaluation_requests=evaluation_requests())
    assert (len(clean.examples), clean.dropped) == (972, Counter(duplicate=13))
    assert len(read_examples(DATA / "triples/aisafetylab.json").examples) == 490
