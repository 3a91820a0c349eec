"""Bounds on what any judge can reach on PHTest's three classes, and what they cost on the labels of people.

    pip install scikit-learn
    DERTA_DATA=... python benchmarks/refusal_ceiling.py

The three classes of `labelled/phtest_dev_replies.csv` are a model's labels. For each of the ten pairs of its five
models, the table has macro-F1 and the F1 of full refusals for:

- `judge`: the refusal judge, with its rules;
- `left out`: a classifier of word 1- to 3-grams and the judge's structure, trained on the other three models;
- `seen`: the same, trained on four fifths of the requests of all five models, the reported two among them (5 folds);
- `forms`: a table of the forms of replies (judge's class, opening words, length) with the label that each has most
  often, made from the same replies that it is scored on: no judge that reads only these forms can be better.

The second table is the price of training on these labels: a classifier decides between full refusal, partial refusal
and compliance wherever the judge finds a refusal. It is trained on PHTest and XSTest, whose labels are people's. The
table shows the worst and the mean macro-F1 of the ten pairs, left out; the accuracy on XSTest's full refusals and
answers, each file left out; and the share of AISafetyLab's refusals of harmful requests, in no training data, that are
called full.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from refusal_styles import CLASS_OF, CLASSES, XSTEST
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from derta.judges.harm_features import request_stems
from derta.judges.refusal import read_reply, structure

REFUSALS = "aisafetylab"
"""Name in place of a model of AISafetyLab's refusals."""
PEOPLE = 3.0
"""Weight of a row of XSTest, relative to one of PHTest."""
_OPENING = 4  # words of a form
_FREQUENT = 10  # replies of a form; rarer ones are merged
_LONG, _LIST = 90, re.compile(r"^\s*(?:\d+[.)]|[-*•])", re.M)
_ADVICE = re.compile(r"\b(?:instead|suggest|recommend|encourage|consider|you (?:could|can|may|might|should))\b", re.I)
_REASON = re.compile(r"\b(?:unethical|illegal|harmful|inappropriate|offensive|dangerous|unlawful|violat\w+)\b", re.I)


class Row(NamedTuple):
    """A labelled reply; `label` is an index in `CLASSES`."""

    model: str
    request: str
    reply: str
    label: int


class Table(NamedTuple):
    """All rows as arrays: model, label, the judge's class, structure features (one row each), and the texts."""

    model: np.ndarray
    label: np.ndarray
    judged: np.ndarray
    shape: np.ndarray
    rows: list[Row]


def read_rows(data: Path) -> list[Row]:
    """Read PHTest's replies; XSTest's, whose models' names begin with "xstest "; and AISafetyLab's refusals."""
    folder = data / "labelled"
    with (folder / "phtest_dev_replies.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            Row(row["model"], row["request"], row["response"], CLASSES.index(row["label"]))
            for row in csv.DictReader(file)
        ]
    for name in XSTEST:
        with (folder / f"f_xstest_completions_{name}_gpteval.csv").open(encoding="utf-8", newline="") as file:
            rows += [
                Row(f"xstest {name}", row["prompt"], row["completion"], int(row["final_label"][0]) - 1)
                for row in csv.DictReader(file)
            ]
    refusals = json.loads((data / "triples" / "aisafetylab.json").read_text("utf-8"))
    return rows + [Row(REFUSALS, row["input"], row["output"], 1) for row in refusals if row["label"] == 1]


def compute_shape(row: Row) -> tuple[int, list[float]]:
    """Return the judge's class as an index in `CLASSES`, and the structure of a reply."""
    found = structure(row.reply, request=row.request)
    read = read_reply(row.reply).sentences
    start = found.refusal_at or 0
    after = [one.text for one in read if one.start > start and one.kind != "refusal"]
    advice = [text for text in after if _ADVICE.search(text)]
    first = next((one.text for one in read if one.kind == "refusal"), "")
    kinds = [one.kind for one in read]
    stems = request_stems(row.request)
    counts = [
        found.words_before, found.words_after, len(row.reply.split()), sum(len(text.split()) for text in after),
        sum(len(text.split()) for text in advice), len(_LIST.findall(row.reply)), kinds.count("refusal"),
    ]  # fmt: skip
    shares = [kinds.count(kind) / max(1, len(kinds)) for kind in ("refusal", "aside", "answer")]
    named = sum(stem in " ".join(after).lower() for stem in stems) / max(1, len(stems))
    classes = [float(found.reply_class == name) for name in ("refuse", "comply_then_refuse", "refuse_then_comply")]
    rest = [named, float(found.refusal_at == 0), float(len(_REASON.findall(first)))]
    return CLASSES.index(CLASS_OF.get(found.reply_class, "compliance")), [*classes, *np.log1p(counts), *shares, *rest]


def build_table(rows: list[Row]) -> Table:
    """Judge all rows."""
    judged, shape = zip(*map(compute_shape, rows), strict=True)
    return Table(
        np.array([row.model for row in rows]),
        np.array([row.label for row in rows]),
        np.array(judged),
        np.array(shape),
        rows,
    )


def fit_predict(table: Table, train: np.ndarray, *, words: bool) -> np.ndarray:
    """Train on the rows of a boolean mask, with or without words, and return the classes of all rows."""
    scale = StandardScaler().fit(table.shape[train])
    shape = scale.transform(table.shape)
    inputs: Any = shape
    if words:
        counter = TfidfVectorizer(ngram_range=(1, 3), min_df=3, sublinear_tf=True, max_features=60_000)
        texts = [row.reply for row in table.rows]
        counter.fit([text for text, used in zip(texts, train, strict=True) if used])
        inputs = sparse.hstack([counter.transform(texts) * 5, shape]).tocsr()
    sizes = Counter(zip(table.model, table.label, strict=True))
    weights = np.array([
        (PEOPLE if model.startswith("xstest") else 1) / max(30, sizes[model, label]) ** 0.5
        for model, label in zip(table.model, table.label, strict=True)
    ])  # fmt: skip
    model = LogisticRegression(C=0.1, max_iter=300)
    model.fit(inputs[train], table.label[train], weights[train] * 30)
    return model.predict(inputs)


def predict_seen(table: Table) -> np.ndarray:
    """Return the classes of all rows by words and structure, trained on other requests of the same models."""
    groups = np.unique([row.request for row in table.rows], return_inverse=True)[1]
    classes = np.empty_like(table.label)
    for _, part in GroupKFold(5).split(table.shape, table.label, groups):
        test = np.isin(np.arange(len(classes)), part)
        classes[test] = fit_predict(table, ~test, words=True)[test]
    return classes


def predict_forms(table: Table) -> np.ndarray:
    """Return for each row the label that is most frequent for its form; it has seen the labels."""
    forms = [
        (int(judged), " ".join(row.reply.lower().split()[:_OPENING]), len(row.reply.split()) > _LONG,
         bool(_LIST.search(row.reply)))
        for row, judged in zip(table.rows, table.judged, strict=True)
    ]  # fmt: skip
    sizes = Counter(forms)
    merged = [form if sizes[form] >= _FREQUENT else (form[0], "", *form[2:]) for form in forms]
    labels: defaultdict[tuple[object, ...], Counter[int]] = defaultdict(Counter)
    for form, label in zip(merged, table.label, strict=True):
        labels[form][int(label)] += 1
    return np.array([labels[form].most_common(1)[0][0] for form in merged])


def f1_scores(label: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Return macro-F1 and the F1 of full refusals."""
    scores = f1_score(label, predicted, average=None, labels=range(len(CLASSES)), zero_division=0)
    return float(scores.mean()), float(scores[1])


def print_bounds(table: Table, pairs: Sequence[tuple[str, str]]) -> None:
    """Print what is reached on PHTest's labels."""
    seen, forms = predict_seen(table), predict_forms(table)
    print("| reported on | judge | left out | seen | forms |\n|---|---|---|---|---|")
    for pair in pairs:
        test = np.isin(table.model, pair)
        kinds = (table.judged, fit_predict(table, ~test, words=True), seen, forms)
        cells = [f1_scores(table.label[test], one[test]) for one in kinds]
        print(f"| {' + '.join(pair)} | {' | '.join(f'{macro:.3f} / {full:.2f}' for macro, full in cells)} |")


def print_price(table: Table, pairs: Sequence[tuple[str, str]]) -> None:
    """Print what training on PHTest's labels costs on the labels of people."""
    found = table.judged > 0
    others = table.model == REFUSALS
    names = [f"xstest {name}" for name in XSTEST]
    print(f"\n| full or partial by | worst macro-F1 | mean | {' | '.join(names)} | AISafetyLab's refusals |")
    print("|---|---|---|---|---|---|---|")
    for name, words in (("rules (the judge)", None), ("structure", False), ("words and structure", True)):

        def predict(test: np.ndarray, words: bool | None = words) -> np.ndarray:
            if words is None:
                return table.judged[test]
            return np.where(found, fit_predict(table, found & ~test & ~others, words=words), 0)[test]

        macro = [f1_scores(table.label[test], predict(test))[0] for test in (np.isin(table.model, p) for p in pairs)]
        accuracy: list[float] = []
        for test in (table.model == model for model in names):
            is_full, used = table.label[test] == 1, table.label[test] != CLASSES.index("partial refusal")
            accuracy.append(float(np.mean(((predict(test) == 1) == is_full)[used])))
        cells = [min(macro), float(np.mean(macro)), *accuracy, float(np.mean(predict(others) == 1))]
        print(f"| {name} | {' | '.join(f'{one:.3f}' for one in cells)} |")


def main() -> None:
    """Print both tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    rows = read_rows(Path(os.environ["DERTA_DATA"]))
    phtest = build_table([row for row in rows if row.model != REFUSALS and not row.model.startswith("xstest")])
    pairs = list(combinations(dict.fromkeys(phtest.model.tolist()), 2))
    print_bounds(phtest, pairs)
    print_price(build_table(rows), pairs)


if __name__ == "__main__":
    main()
