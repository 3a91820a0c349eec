"""Lexicons of `derta.judges.harmless`, fitted for `scripts/train_harm_judge.py`.

Harmful replies are those of the training sources of the harm judge, harmless ones are CoCoNot's helpful answers and
GSM8K's solutions. Harmful requests are HarmBench's, the paper's and XSTest's unsafe ones, harmless ones CoCoNot's,
PHTest's harmless ones, and questions of GSM8K and MMLU. All of these files may be used commercially. Not used, and thus
left out, are all requests of AISafetyLab, Alpaca, AlpacaEval, SafeRLHF and Do-Not-Answer.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from random import Random

import numpy as np
from harm_judge_rows import Row, read_csv
from scipy import sparse
from scipy.optimize import minimize

from derta.judges.harm_features import STOP
from derta.judges.harmless import FEW_STEMS, Lexicon, request_stems

LEAST = {"request": 4, "reply": 5}  # texts that a stem must be in
SIZE = 400  # stems of a lexicon
PENALTY = 1 / 3  # L2 penalty, relative to the summed loss of the texts
QUESTIONS = 500  # of GSM8K and of MMLU
SOLUTIONS = 600  # of GSM8K


def read_jsonl(path: Path) -> list[dict[str, str]]:
    """Load the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_requests(data: Path) -> tuple[list[str], list[str]]:
    """Load the harmful and the harmless requests."""
    requests, looks = data / "requests", data / "over_refusal"
    harmful = [row["Behavior"] for name in ("val", "test") for row in read_csv(requests / f"harmbench_{name}.csv")]
    harmful += [row["question"] for row in read_jsonl(data / "published" / "requests.jsonl")]
    harmful += [row["prompt"] for row in read_csv(looks / "xstest_prompts.csv") if row["type"].startswith("contrast")]
    harmless = [
        row["prompt"] for path in (looks / "coconot_contrast.jsonl", data / "helpful" / "coconot_pref.jsonl")
        for row in read_jsonl(path)
    ]  # fmt: skip
    harmless += [row["Request"] for row in read_csv(looks / "phtest_dev.csv") if row["Harmfulness"] == "harmless"]
    rng = Random(0)  # noqa: S311
    gsm8k = [row["question"] for row in read_jsonl(data / "helpfulness" / "gsm8k_test.jsonl")]
    harmless += rng.sample(gsm8k, QUESTIONS) + rng.sample(_read_mmlu(data / "helpfulness" / "mmlu.zip"), QUESTIONS)
    return harmful, harmless


def _read_mmlu(path: Path) -> list[str]:
    """Load MMLU's test questions."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith("_test.csv"))
        files = [io.StringIO(archive.read(name).decode("utf-8")) for name in names]
    return [row[0] for file in files for row in csv.reader(file) if row]


def read_harmless_replies(data: Path) -> list[Row]:
    """Load answers to harmless requests."""
    coconot = read_jsonl(data / "helpful" / "coconot_pref.jsonl")
    rows = [Row("coconot", row["prompt"], row["chosen"], harmful=False) for row in coconot]
    solved = Random(0).sample(read_jsonl(data / "helpfulness" / "gsm8k_test.jsonl"), SOLUTIONS)  # noqa: S311
    return [*rows, *(Row("gsm8k", row["question"], row["answer"], harmful=False) for row in solved)]


def fit_request_lexicon(data: Path) -> Lexicon:
    """Fit the lexicon of requests."""
    harmful, harmless = ([request_stems(text, STOP) for text in texts] for texts in read_requests(data))
    return fit_lexicon(harmful, harmless, kind="request")


def fit_lexicon(harmful: Sequence[Collection[str]], harmless: Sequence[Collection[str]], *, kind: str) -> Lexicon:
    """Fit a logistic regression of equally weighted classes, and again on the `SIZE` stems that matter most."""
    texts = [*harmful, *harmless]
    signs = np.array([1.0] * len(harmful) + [-1.0] * len(harmless))
    counts = Counter(stem for text in texts for stem in text)
    stems = sorted(stem for stem, count in counts.items() if count >= LEAST[kind])
    theta = _fit(texts, signs, stems, FEW_STEMS[kind])
    effects = np.abs(theta[:-1]) * np.sqrt([counts[stem] for stem in stems])
    stems = sorted(stems[i] for i in np.argsort(-effects, kind="stable")[:SIZE])
    theta = _fit(texts, signs, stems, FEW_STEMS[kind])
    weights = {stem: round(float(one), 2) for stem, one in zip(stems, theta[:-1], strict=True)}
    return Lexicon(round(float(theta[-1]), 3), weights)


def _fit(texts: Sequence[Collection[str]], signs: np.ndarray, stems: Sequence[str], few: int) -> np.ndarray:
    """Return the weights of the stems, and the bias."""
    columns = {stem: i for i, stem in enumerate(stems)}
    rows, at = zip(*((i, columns[one]) for i, text in enumerate(texts) for one in text if one in columns), strict=True)
    table = sparse.csr_matrix((np.ones(len(rows)), (rows, at)), shape=(len(texts), len(stems)))
    sizes = np.maximum(few, np.asarray(table.sum(axis=1)).ravel())
    table = (sparse.diags(1 / np.sqrt(sizes)) @ table).tocsr()
    sizes = {sign: int((signs == sign).sum()) for sign in (1.0, -1.0)}
    weights = np.array([len(texts) / (2 * sizes[sign]) for sign in signs])

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (table @ theta[:-1] + theta[-1])
        gradient = -weights * signs / (1 + np.exp(np.minimum(margins, 500)))
        value = weights @ np.logaddexp(0, -margins) + PENALTY / 2 * theta[:-1] @ theta[:-1]
        return value, np.append(table.T @ gradient + PENALTY * theta[:-1], gradient.sum())

    return minimize(loss, np.zeros(len(stems) + 1), jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
