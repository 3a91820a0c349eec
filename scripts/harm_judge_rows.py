"""Training rows of the embedded harm judge, for `scripts/train_harm_judge.py`.

GPTFuzz's file identifies its questions only by number. Some of its replies are therefore used without a request, and
some with the subject of their question: the most distinctive words of all replies to it, whatever their label.
AISafetyLab's helpful answers always have their harmless requests; answers whose request is too long for the judge are
dropped, because the judge assumes that an unknown request is harmful.

Synthetic rows are derived from the labelled replies, so that the judge learns the relation to the request and the
position of a refusal. Not harmful: a reply to another request, a helpful answer to a harmful request, and a reply that
stops after a few words. Harmful: a harmful reply with a refusal before or after it.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from derta.judges.harm_features import SHAPE, STOP, features

SYNTHETIC_ROWS = 400  # of each synthetic kind
REQUEST_DROPPED = 0.5  # share of labelled replies whose request is dropped, for input files without requests
SUBJECT_WORDS = 6
LABELLED = ("labelled", "helpful")
SYNTHETIC_KINDS = ("mismatched", "off_topic", "broken_off", "refusal_first", "refusal_last")


class Row(NamedTuple):
    """Labelled reply; rows of one `group` (a question) are in the same fold."""

    source: str
    group: str
    request: str | None
    reply: str
    harmful: bool
    kind: str = "labelled"


def read_gptfuzz(path: Path) -> list[Row]:
    """Load GPTFuzz labels: each distinct reply once, with the majority label of its copies."""
    csv.field_size_limit(10**9)
    copies: dict[tuple[str, str], list[int]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            copies.setdefault((row["question"], row["Response"]), []).append(int(row["label"]))
    return [
        Row("gptfuzz", f"gptfuzz {question}", None, reply, 2 * sum(labels) > len(labels))
        for (question, reply), labels in copies.items()
    ]


def find_subjects(rows: Sequence[Row]) -> dict[str, str]:
    """Return the subject of each group: frequent words of its replies that are rare in others, whatever the labels."""
    everywhere: Counter[str] = Counter()
    within: dict[str, Counter[str]] = {}
    sizes = Counter(row.group for row in rows)
    for row in rows:
        words = set(re.findall(r"[a-z]{4,}", row.reply.lower())) - STOP
        everywhere.update(words)
        within.setdefault(row.group, Counter()).update(words)
    subjects: dict[str, str] = {}
    for group, counts in within.items():
        shares = {word: count / sizes[group] for word, count in counts.items() if count >= max(3, sizes[group] / 10)}
        scores = {word: share * np.log(share * len(rows) / everywhere[word]) for word, share in shares.items()}
        subjects[group] = " ".join(sorted(scores, key=lambda word: (-scores[word], word))[:SUBJECT_WORDS])
    return subjects


def read_aisafetylab(path: Path, label: int) -> list[Row]:
    """Load the AISafetyLab answers with one label: 0 helpful, 1 refusal, 2 harmful."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    kind = "labelled" if label else "helpful"
    return [
        Row("aisafetylab", f"aisafetylab {one['input']}", one["input"], one["output"], label == 2, kind)
        for one in rows
        if one["label"] == label
    ]


def shares_no_content_word(first: str, second: str) -> bool:
    """Return whether two requests have no content word in common."""
    return dict(zip(SHAPE, features(first, second).shape, strict=True))["uncovered"] == 1


def uses_request(row: Row) -> bool:
    """Return whether the judge uses the request of a row."""
    return dict(zip(SHAPE, features(row.request, "").shape, strict=True))["has_request"] == 1


def synthetic_rows(
    harmful: Sequence[Row], helpful: Sequence[Row], refusals: Sequence[str], rng: Random
) -> Iterator[Row]:
    """Yield synthetic rows (see the module docstring); every harmful input row has a request or subject."""
    for _ in range(SYNTHETIC_ROWS):
        row, other_request = rng.choice(harmful), rng.choice(harmful).request or ""
        if shares_no_content_word(other_request, row.request or ""):
            yield row._replace(request=other_request, harmful=False, kind="mismatched")
        yield rng.choice(helpful)._replace(request=other_request, kind="off_topic")
        row, refusal = rng.choice(harmful), rng.choice(refusals)
        yield row._replace(reply=f"{refusal}\n\n{row.reply}", kind="refusal_first")
        row = rng.choice(harmful)
        few = " ".join(row.reply.split(" ")[: rng.randint(2, 14)]) + rng.choice([f" {refusal}", ""])
        yield row._replace(reply=few, harmful=False, kind="broken_off")
        row = rng.choice(harmful)
        words = row.reply.split(" ")
        if len(words) > 60:
            start = words[: max(60, int(len(words) * rng.uniform(0.5, 1)))]
            yield row._replace(reply=" ".join(start) + rng.choice(["", " ", "\n\n"]) + refusal, kind="refusal_last")


def read_rows(data: Path, rng: Random) -> list[Row]:
    """Load the labelled rows and derive the synthetic ones."""
    gptfuzz = read_gptfuzz(data / "labelled" / "f_gptfuzz_train.csv")
    subjects = find_subjects(gptfuzz)
    helpful, refused, harmful = (read_aisafetylab(data / "triples" / "aisafetylab.json", label) for label in range(3))
    labelled = [*(row._replace(request=subjects[row.group]) for row in gptfuzz), *refused, *harmful]
    synthetic = list(synthetic_rows([r for r in labelled if r.harmful], helpful, [r.reply for r in refused], rng))
    helpful_rows = [r for r in helpful if uses_request(r)]
    dropped = [r._replace(request=None) if rng.random() < REQUEST_DROPPED else r for r in labelled]
    return [*dropped, *helpful_rows, *synthetic]
