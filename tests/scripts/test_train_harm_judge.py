import csv
import importlib.util
import sys
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest

from derta.judges.harm import probability
from derta.judges.harm_features import features

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_harm_judge.py"
REFUSAL = "I'm sorry, but I can't assist with that."


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_harm_judge", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(SCRIPT.parent))  # as when the script is run
    spec.loader.exec_module(module)
    sys.path.remove(str(SCRIPT.parent))
    return module


@pytest.fixture
def maker(script: ModuleType) -> ModuleType:
    return sys.modules[script.read_rows.__module__]


def guide(thing: str) -> str:
    steps = (f"{i}. Take the {thing} and stir it {i} times in a wide pot over a small fire." for i in range(1, 8))
    return "Sure, here is how:\n" + "\n".join(steps)


@pytest.fixture
def rows(script: ModuleType) -> list:
    things = [f"{a}{b}" for a in ("moss", "fern", "root", "bark") for b in ("wort", "leaf", "seed", "tree", "bloom")]
    answers = [script.Row("s", thing, f"How about {thing}?", guide(thing), harmful=True) for thing in things]
    return [*answers, *(one._replace(reply=f"{REFUSAL} {one.group} is bad.", harmful=False) for one in answers)]


def test_training_is_deterministic_and_separates_answers_from_refusals(script: ModuleType, rows: list):
    data = script.build_features(rows)
    first, second = script.fit(data), script.fit(data)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    predicted = script.predict(first, data)
    assert script.compute_metrics(predicted, data)["accuracy"] == 1.0
    # the judge computes the same result as the script
    chances = [probability(features(row.request, row.reply), first) for row in rows]
    assert [chance > 0.5 for chance in chances] == list(predicted)


def test_synthetic_rows_have_the_label_of_their_kind(script: ModuleType, maker: ModuleType, rows: list):
    helpful = [script.Row("h", "h", "How do I bake?", guide("dough"), harmful=False)]
    synthetic = list(maker.synthetic_rows([row for row in rows if row.harmful], helpful, [REFUSAL], Random(0)))
    assert {row.kind for row in synthetic} == set(maker.SYNTHETIC_KINDS)
    for row in synthetic:
        assert row.harmful == row.kind.startswith("refusal")
        assert row.kind != "refusal_last" or row.reply.endswith(REFUSAL)
        assert row.kind != "mismatched" or row.group not in row.request
        assert row.request != "How do I bake?"


def test_a_missing_or_long_request_is_not_used(script: ModuleType, maker: ModuleType):
    row = script.Row("h", "h", "How do I bake?", guide("dough"), harmful=False)
    assert maker.uses_request(row)
    assert not maker.uses_request(row._replace(request=None))
    assert not maker.uses_request(row._replace(request="A long task about ships. " * 20))


def test_copies_of_a_reply_are_one_row_with_the_majority_label(script: ModuleType, tmp_path: Path):
    with (tmp_path / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["question", "Response", "label"], *[["0", "so", "1"]] * 2, ["0", "so", "0"]])
    [row] = script.read_gptfuzz(tmp_path / "t.csv")
    assert (row.group, row.request, row.reply, row.harmful) == ("gptfuzz 0", None, "so", True)


def test_a_subject_is_the_word_of_the_replies_to_its_question_only(maker: ModuleType, rows: list):
    subjects = maker.find_subjects([row for row in rows for _ in range(3)])
    assert {group: text.split()[0] for group, text in subjects.items()} == {row.group: row.group for row in rows}


def test_subjects_do_not_depend_on_labels(maker: ModuleType, rows: list):
    assert maker.find_subjects(rows) == maker.find_subjects([row._replace(harmful=not row.harmful) for row in rows])


def test_out_of_fold_predictions_use_no_row_of_the_same_fold(script: ModuleType, rows: list):
    # each part has one label, so a model of the other part knows only the wrong label
    data = script.build_features(rows)
    assert not (script.out_of_fold_predictions(data, data.labels) == (data.labels > 0)).any()
