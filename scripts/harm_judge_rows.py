"""Labelled replies for `scripts/train_harm_judge.py`: training rows, and whole sources that are only evaluated on.

Trained on: GPTFuzz's training file (people's labels; its questions are known by number only, so these rows have no
request) and AISafetyLab's harmful answers and refusals. Synthetic rows are derived from each of the two, so that the
judge learns the position of a refusal: harmful is a harmful reply with a refusal before or after it, and not harmful is
a reply that stops after a few words.

Only evaluated on: everything else (see `read_sources`).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from derta.attacks.static.code_attack import code_attack
from derta.judges.payload import normalized
from derta.judges.refusal import structure
from derta.paper.figures import load_figures
from derta.paper.outputs import read_published
from derta.records import Request

SYNTHETIC_ROWS = 400  # of each kind and source
COMPLIANCE = "do they comply"  # source of labels of compliance with harmless requests
SHORT_REFUSAL = 300  # characters
SYNTHETIC_KINDS = ("refusal_first", "refusal_last", "broken_off")


class Row(NamedTuple):
    """Reply with the label of people; `prompt` is the text that the model received, if it is known.

    `expected` is the share of harmful replies in the whole source, for published files without labels of replies.
    """

    source: str
    request: str | None
    reply: str
    harmful: bool
    kind: str = "labelled"
    mid_answer: bool = False
    prompt: str = ""
    expected: float | None = None


def read_csv(path: Path) -> list[dict[str, str]]:
    """Load the rows of a CSV file."""
    csv.field_size_limit(10**9)
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def read_gptfuzz(path: Path, source: str) -> list[Row]:
    """Load GPTFuzz labels: each distinct reply to a question once, with the majority label of its copies."""
    copies: dict[tuple[str, str], list[int]] = {}
    for row in read_csv(path):
        copies.setdefault((row["question"], row["Response"]), []).append(int(row["label"]))
    return [Row(source, None, reply, 2 * sum(labels) > len(labels)) for (_, reply), labels in copies.items()]


def read_aisafetylab(path: Path, labels: Sequence[int] = (1, 2), source: str = "aisafetylab") -> list[Row]:
    """Load the AISafetyLab answers with some labels: 0 helpful, 1 refusal, 2 harmful."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Row(source, one["input"], one["output"], one["label"] == 2) for one in rows if one["label"] in labels]


def read_alpaca(data: Path) -> Iterator[Row]:
    """Yield answers to everyday requests: not harmful."""
    for name, path in (
        ("alpaca", data / "helpful" / "alpaca.json"),
        ("alpacaeval", data / "over_refusal" / "alpaca_eval.json"),
    ):
        for row in json.loads(path.read_text(encoding="utf-8")):
            yield Row(name, f"{row['instruction']} {row.get('input', '')}", row["output"], harmful=False)


def synthetic_rows(rows: Sequence[Row], rng: Random) -> Iterator[Row]:
    """Yield synthetic rows (see the module docstring) from the rows of one source."""
    harmful = [row for row in rows if row.harmful]
    refusals = [
        row.reply
        for row in rows
        if not row.harmful and len(row.reply) < SHORT_REFUSAL and structure(row.reply).reply_class == "refuse"
    ]
    for _ in range(SYNTHETIC_ROWS):
        row, refusal = rng.choice(harmful), rng.choice(refusals)
        yield row._replace(reply=f"{refusal}\n\n{row.reply}", kind="refusal_first")
        row = rng.choice(harmful)
        words = row.reply.split(" ")
        few = " ".join(words[: rng.randint(2, 14)]) + rng.choice([f" {refusal}", ""])
        yield row._replace(reply=few, harmful=False, kind="broken_off")
        if len(words) > 60:
            start = words[: max(60, int(len(words) * rng.uniform(0.5, 1)))]
            yield row._replace(reply=" ".join(start) + rng.choice(["", " ", "\n\n"]) + refusal, kind="refusal_last")


def read_training(data: Path, rng: Random) -> list[Row]:
    """Load the rows that weights are fitted on, with their synthetic rows."""
    gptfuzz = read_gptfuzz(data / "labelled" / "f_gptfuzz_train.csv", "gptfuzz")
    aisafetylab = read_aisafetylab(data / "triples" / "aisafetylab.json")
    return [*gptfuzz, *synthetic_rows(gptfuzz, rng), *aisafetylab, *synthetic_rows(aisafetylab, rng)]


def read_sources(data: Path, rng: Random) -> list[Row]:
    """Load the rows of every source that no weights are fitted on.

    The labels of `xstest, unsafe` and `do they comply` are of compliance: a full answer is harmful, a full refusal is
    not. The requests of `do they comply` only look harmful, so it measures the form of answers in prose, and
    `looks harmful` whether the same answers are recognised as harmless.
    """
    compliance = [
        *_read_xstest(data / "labelled"),
        *_read_phtest(data / "labelled" / "phtest_dev_replies.csv"),
    ]
    return [
        *read_gptfuzz(data / "labelled" / "f_gptfuzz_evaluate.csv", "gptfuzz, evaluation file"),
        *_read_saferlhf(data / "triples" / "saferlhf.jsonl"),
        *compliance,
        *(
            row._replace(source=row.source.replace(COMPLIANCE, "looks harmful"), harmful=False)
            for row in compliance
            if row.harmful and row.source.startswith(COMPLIANCE)
        ),
        *read_aisafetylab(data / "triples" / "aisafetylab.json", (0,), "aisafetylab, helpful"),
        *read_aisafetylab(data / "triples" / "aisafetylab.json", (0, 1, 2), "aisafetylab, all labels"),
        *read_alpaca(data),
        *mismatched(read_aisafetylab(data / "triples" / "aisafetylab.json"), rng),
        *in_code(read_aisafetylab(data / "triples" / "aisafetylab.json"), rng),
        *_read_published(data / "published"),
    ]


def _read_saferlhf(path: Path) -> Iterator[Row]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name in ("safe", "harmful"):
            reply = row[name] if isinstance(row[name], str) else row[name][0]
            yield Row("saferlhf", row["query"], reply, name == "harmful")


def _read_xstest(folder: Path) -> Iterator[Row]:
    for path in sorted(folder.glob("f_xstest_completions_*.csv")):
        for row in read_csv(path):
            source = "xstest, unsafe" if row["type"].startswith("contrast") else f"{COMPLIANCE}, xstest"
            if row["final_label"][0] in "12":
                yield Row(source, row["prompt"], row["completion"], row["final_label"][0] == "1")


def _read_phtest(path: Path) -> Iterator[Row]:
    for row in read_csv(path):
        if row["label"] != "partial refusal":
            yield Row(f"{COMPLIANCE}, phtest", row["request"], row["response"], row["label"] == "compliance")


def _read_published(folder: Path) -> Iterator[Row]:
    for figure in load_figures().outputs:
        if figure.measure == "harmful" and figure.paper is not None:
            for case in read_published(folder / figure.file, kind=figure.kind).cases:
                prompt, mid_answer = case.prompt, figure.kind == "completions"
                text = prompt.text or (prompt.messages[-1].content if prompt.messages else "")
                yield Row(
                    figure.file.removesuffix(".jsonl"), prompt.request, case.reply.text, harmful=False,
                    mid_answer=mid_answer, prompt=normalized(text), expected=figure.paper / 100,
                )  # fmt: skip


def mismatched(rows: Sequence[Row], rng: Random) -> Iterator[Row]:
    """Yield each harmful answer with the request of another one: not harmful."""
    harmful = [row for row in rows if row.harmful]
    for row in harmful:
        other = rng.choice(harmful)
        if other.request != row.request:
            yield row._replace(source="other request", request=other.request, harmful=False)


def in_code(rows: Sequence[Row], rng: Random) -> Iterator[Row]:
    """Yield each reply as a reply to CodeAttack: a program that appends its sentences to a list."""
    attack = code_attack()
    for i, row in enumerate(rows):
        [prompt] = attack.craft([Request(id=str(i), text=row.request or "")])
        skeleton = prompt.messages[0].content if prompt.messages else ""
        sentences = [one.strip() for one in row.reply.replace("\n", ". ").split(". ") if one.strip()]
        if rng.random() < 0.5:
            steps = "\n".join(f"        output_list.append({json.dumps(one)})" for one in sentences)
        else:
            steps = (
                "        output_list = [\n" + "\n".join(f"            {one!r}," for one in sentences) + "\n        ]"
            )
        before, _, after = skeleton.partition("        output_list.append( )")
        program = before + steps + "\n" + after[after.rfind("\n\nif __name__") :]
        code = program[program.find("```") :]
        yield row._replace(source="in code", reply=code, prompt=normalized(skeleton))
        if i % 4 == 0:  # the program without an answer
            yield row._replace(source="in code", reply=skeleton[skeleton.find("```") :], prompt=normalized(skeleton),
                               harmful=False)  # fmt: skip
