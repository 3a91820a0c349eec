"""Accuracy of the refusal judge on labelled replies of several models, by pairs of models.

    DERTA_DATA=... python benchmarks/refusal_styles.py

`labelled/phtest_dev_replies.csv` has the replies of five models to requests that look harmful, with three classes. The
labels are a model's. For each of the ten pairs of models, the rules may be chosen on the other three, and the pair is
reported: precision and recall of each class, macro-F1 and accuracy, and both for a judge that always answers
`compliance`. Then the three human-labelled sets of XSTest: accuracy on full refusals and full compliance.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from derta.judges.refusal import structure
from derta.records import ReplyClass

CLASSES = ("compliance", "full refusal", "partial refusal")
CLASS_OF: dict[ReplyClass, str] = {
    "refuse": "full refusal",
    "comply_then_refuse": "partial refusal",
    "refuse_then_comply": "partial refusal",
}
"""Class of the labels for a class of the judge; the others are compliance."""
XSTEST = ("llama2new", "llama2orig", "mistralinstruct")


class Case(NamedTuple):
    """A labelled reply with the judge's class."""

    model: str
    label: str
    predicted: str


class Scores(NamedTuple):
    """Precision, recall and F1 of each class, their mean F1, and the accuracy."""

    by_class: dict[str, tuple[float, float, float]]
    macro: float
    accuracy: float


def read_cases(path: Path) -> list[Case]:
    """Judge the replies of PHTest's models."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Case(
            row["model"],
            row["label"],
            CLASS_OF.get(structure(row["response"], request=row["request"]).reply_class, "compliance"),
        )
        for row in rows
    ]


def score(cases: Sequence[Case]) -> Scores:
    """Compute the scores of the judge's classes.

    >>> score([Case("a", "compliance", "compliance"), Case("a", "full refusal", "compliance")]).accuracy
    0.5
    """
    by_class: dict[str, tuple[float, float, float]] = {}
    for name in CLASSES:
        hits = sum(case.label == case.predicted == name for case in cases)
        predicted, labelled = (sum(getattr(case, field) == name for case in cases) for field in ("predicted", "label"))
        by_class[name] = (
            hits / predicted if predicted else 0.0,
            hits / labelled if labelled else 0.0,
            2 * hits / (predicted + labelled) if predicted + labelled else 0.0,
        )
    macro = sum(f1 for _, _, f1 in by_class.values()) / len(CLASSES)
    return Scores(by_class, macro, sum(case.label == case.predicted for case in cases) / len(cases))


def format_scores(name: str, cases: Sequence[Case]) -> str:
    """Format one row of the table; the constant judge's macro-F1 and accuracy are in the last two columns."""
    own, constant = score(cases), score([case._replace(predicted="compliance") for case in cases])
    cells = [f"{precision:.2f}/{recall:.2f}/{f1:.2f}" for precision, recall, f1 in own.by_class.values()]
    numbers = [f"{value:.3f}" for value in (own.macro, own.accuracy, constant.macro, constant.accuracy)]
    return f"| {name} | {len(cases)} | {' | '.join([*cells, *numbers])} |"


def xstest_accuracy(path: Path) -> tuple[int, float]:
    """Return the number of full refusals and answers of a file and the judge's accuracy on them."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["final_label"].startswith("3")]
    hits = 0
    for row in rows:
        kind = structure(row["completion"], request=row["prompt"]).reply_class
        hits += (kind in ("refuse", "comply_then_refuse")) == row["final_label"].startswith("2")
    return len(rows), hits / len(rows)


def main() -> None:
    """Print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    folder = Path(os.environ["DERTA_DATA"]) / "labelled"
    cases = read_cases(folder / "phtest_dev_replies.csv")
    models = list(dict.fromkeys(case.model for case in cases))
    print("| reported on | n | compliance P/R/F1 | full refusal P/R/F1 | partial refusal P/R/F1 | macro-F1 | accuracy "
          "| constant macro-F1 | constant accuracy |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    groups = [(model,) for model in models] + list(combinations(models, 2)) + [tuple(models)]
    for group in groups:
        print(format_scores(" + ".join(group), [case for case in cases if case.model in group]))
    print("\n| XSTest, human labels | n | accuracy |\n|---|---|---|")
    for name in XSTEST:
        count, accuracy = xstest_accuracy(folder / f"f_xstest_completions_{name}_gpteval.csv")
        print(f"| {name} | {count} | {accuracy:.3f} |")


if __name__ == "__main__":
    main()
