"""Train the embedded harm judge (`src/derta/judges/weights/harm.npz`) and print its metrics; ten seconds on one core.

    python scripts/train_harm_judge.py "$DERTA_DATA" --out src/derta/judges/weights/harm.npz

Input files, in the folder of public research data: `labelled/f_gptfuzz_train.csv` (GPTFuzz, human labels, MIT) and
`triples/aisafetylab.json` (AISafetyLab's demo answers, MIT); only for the report: `labelled/f_gptfuzz_evaluate.csv`.
`scripts/harm_judge_rows.py` builds the training rows.

`--choose` prints the grid search for `PENALTY` and `SYNTHETIC_WEIGHT`, on the training rows only. The score is the mean
of three accuracies: held-out questions on labelled replies, held-out questions on synthetic replies, and one of the two
sources held out. Of the settings within 0.01 of the best mean, the largest penalty was chosen, then the smallest
weight. That was before the helpful answers counted as labelled; with them the best mean is 0.846, and the settings were
kept at 0.835.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from random import Random
from typing import NamedTuple
from zlib import crc32

import numpy as np
from harm_judge_rows import LABELLED, SYNTHETIC_KINDS, Row, read_gptfuzz, read_rows
from scipy import sparse
from scipy.optimize import minimize

from derta.judges.harm import CLIP, WORDS_SCALE, Weights
from derta.judges.harm_features import BUCKETS, features

FOLDS = 5
PENALTY = 10.0  # L2 penalty, relative to the summed loss of the rows
SYNTHETIC_WEIGHT = 0.3  # weight of a synthetic row; a labelled row has 1


class Data(NamedTuple):
    """Features and labels of rows: shape features, hashed words and labels as arrays."""

    rows: list[Row]
    shape: np.ndarray
    words: sparse.csr_matrix
    labels: np.ndarray

    def select(self, mask: np.ndarray) -> Data:
        """Return the rows of a boolean mask."""
        indices = np.flatnonzero(mask)
        return Data([self.rows[i] for i in indices], self.shape[indices], self.words[indices], self.labels[indices])

    def is_kind(self, *kinds: str) -> np.ndarray:
        """Return a boolean mask of the rows of the given kinds."""
        return np.isin([row.kind for row in self.rows], kinds)


def build_features(rows: Sequence[Row]) -> Data:
    """Compute the features of rows."""
    encoded = [features(row.request, row.reply) for row in rows]
    columns = np.concatenate([one.buckets for one in encoded]).astype(np.int64)
    starts = np.cumsum([0, *(len(one.buckets) for one in encoded)])
    values = np.concatenate(
        [np.full(len(one.buckets), WORDS_SCALE / max(1, len(one.buckets)) ** 0.5) for one in encoded]
    )
    words = sparse.csr_matrix((values, columns, starts), shape=(len(rows), BUCKETS))
    return Data(list(rows), np.array([one.shape for one in encoded]), words, np.array([float(r.harmful) for r in rows]))


def standardize(data: Data, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the standardized and clipped shape features."""
    return np.clip((data.shape - mean) / scale, -CLIP, CLIP)


def fit(data: Data, *, penalty: float = PENALTY, synthetic_weight: float = SYNTHETIC_WEIGHT) -> Weights:
    """Fit a logistic regression with an L2 penalty by L-BFGS; deterministic."""
    mean, scale = data.shape.mean(axis=0), data.shape.std(axis=0) + 1e-6
    table = sparse.hstack([sparse.csr_matrix(standardize(data, mean, scale)), data.words]).tocsr()
    signs = 2 * data.labels - 1
    weights = np.where(data.is_kind(*LABELLED), 1.0, synthetic_weight)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (table @ theta[:-1] + theta[-1])
        gradient = -weights * signs / (1 + np.exp(np.minimum(margins, 500)))
        value = weights @ np.logaddexp(0, -margins) + penalty / 2 * theta[:-1] @ theta[:-1]
        return value, np.append(table.T @ gradient + penalty * theta[:-1], gradient.sum())

    theta = minimize(loss, np.zeros(table.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    count = data.shape.shape[1]
    return Weights(mean, scale, theta[:count], theta[count:-1].astype(np.float16).astype(float), float(theta[-1]))


def predict(weights: Weights, data: Data) -> np.ndarray:
    """Return a boolean mask of the rows that are classified as harmful."""
    scores = standardize(data, weights.mean, weights.scale) @ weights.shape + data.words @ weights.buckets
    return scores + weights.bias > 0


def compute_metrics(predicted: np.ndarray, data: Data) -> dict[str, float | int]:
    """Compute accuracy, precision, recall and Cohen's kappa, with the number of rows."""
    truth = data.labels > 0
    both, accuracy = int((predicted & truth).sum()), float((predicted == truth).mean())
    chance = predicted.mean() * truth.mean() + (1 - predicted.mean()) * (1 - truth.mean())
    return {
        "rows": len(truth),
        "accuracy": round(accuracy, 3),
        "precision": round(both / max(1, int(predicted.sum())), 3),
        "recall": round(both / max(1, int(truth.sum())), 3),
        "kappa": round(float((accuracy - chance) / max(1e-9, 1 - chance)), 3),
    }


def balanced_accuracy(predicted: np.ndarray, data: Data) -> float:
    """Compute the mean of the accuracies on harmful and on other rows."""
    truth = data.labels > 0
    return float(np.mean([(predicted == truth)[truth == label].mean() for label in (0, 1)]))


def out_of_fold_predictions(data: Data, parts: np.ndarray, **settings: float) -> np.ndarray:
    """Return predictions for each part by a model trained on the other parts."""
    predicted = np.zeros(len(parts), dtype=bool)
    for part in np.unique(parts):
        predicted[parts == part] = predict(fit(data.select(parts != part), **settings), data.select(parts == part))
    return predicted


def folds(data: Data) -> np.ndarray:
    """Return the fold of each row, by its question."""
    return np.array([crc32(row.group.encode()) % FOLDS for row in data.rows])


def grid_search(data: Data) -> Iterator[dict[str, float]]:
    """Yield the accuracies of every setting on the training rows; see the module docstring."""
    labelled, sources = data.is_kind(*LABELLED), np.array([row.source for row in data.rows])
    for penalty, synthetic_weight in product((3.0, 10.0, 30.0, 100.0), (0.1, 0.3, 1.0)):
        setting = {"penalty": penalty, "synthetic_weight": synthetic_weight}
        predicted, unseen = (out_of_fold_predictions(data, parts, **setting) for parts in (folds(data), sources))
        each = [labelled & (sources == source) for source in np.unique(sources)]
        scores = {
            "labelled": balanced_accuracy(predicted[labelled], data.select(labelled)),
            "made": float(np.mean([(predicted == data.labels)[data.is_kind(kind)].mean() for kind in SYNTHETIC_KINDS])),
            "source": float(np.mean([balanced_accuracy(unseen[rows], data.select(rows)) for rows in each])),
        }
        scores["mean"] = sum(scores.values()) / len(scores)
        yield setting | {name: round(value, 4) for name, value in scores.items()}


def report(data: Data, evaluation: Data) -> dict[str, dict[str, float | int]]:
    """Compute metrics by cross-validation over questions, per source and kind of row, and on GPTFuzz's evaluation."""
    predicted = out_of_fold_predictions(data, folds(data))
    names = np.array([row.source if row.kind == "labelled" else row.kind for row in data.rows])
    table = {
        f"questions left out, {name}": compute_metrics(predicted[names == name], data.select(names == name))
        for name in np.unique(names)
    }
    return table | {"GPTFuzz evaluation": compute_metrics(predict(fit(data), evaluation), evaluation)}


def main() -> None:
    """Parse the command line, train, print the report and save the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of public research data")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", type=Path, help="output path of the weights")
    action.add_argument("--choose", action="store_true", help="print the grid search without training")
    args = parser.parse_args()
    data = build_features(read_rows(args.data, Random(0)))  # noqa: S311
    if args.choose:
        for line in grid_search(data):
            print(json.dumps(line), flush=True)
        return
    evaluation = build_features(read_gptfuzz(args.data / "labelled" / "f_gptfuzz_evaluate.csv"))
    print(json.dumps(report(data, evaluation), indent=2))
    weights = fit(data)
    arrays = {name: np.float32(value) for name, value in weights._asdict().items() if name != "buckets"}
    np.savez_compressed(args.out, **arrays, buckets=weights.buckets.astype(np.float16))


if __name__ == "__main__":
    main()
