"""Details of runs for their report: training logs, cost, judges, and how to repeat them, from the files of the runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from derta.errors import RunError
from derta.files import parse_record, write_text
from derta.metrics.calibration import Calibration, Share
from derta.metrics.disagreements import disagreements
from derta.metrics.outcomes import Outcome
from derta.pipeline.contents import ModelEntry, RunContents
from derta.pipeline.fine_tuning import COST_FILE
from derta.records import Reply
from derta.run_details import JudgeErrors, ModelCost, RunDetails, RunOrigin, TrainingLog
from derta.stats import Rate

TRAIN_LOG = "train_log.json"
CALIBRATIONS = "*.calibration.json"
"""Files of `derta calibrate … --out` in a run's folder, which its report shows."""
_TOKEN_KEYS = ("num_input_tokens_seen", "num_tokens")  # of Trainer, of TRL's trainers
Entries = Sequence[Mapping[str, Any]]


def read_details(runs: Mapping[Path, RunContents], outcomes: Sequence[Outcome]) -> RunDetails:
    """Return the details of runs; what a folder no longer has, such as the log of a deleted model, is left out.

    Raises:
        RunError: a training log, a calibration or a manifest is not valid.
    """
    replies = {(one.method, one.seed): one.replies for one in outcomes}
    logs = {
        (folder, entry): _read_log(folder / entry.folder)
        for folder, contents in runs.items()
        for entry in contents.models
    }
    return RunDetails(
        training=tuple(log for (_, entry), rows in logs.items() if (log := _training(entry, rows)) is not None),
        costs=tuple(
            _cost(entry, rows, home=folder / entry.folder, replies=replies.get((entry.label, entry.seed), ()))
            for (folder, entry), rows in logs.items()
        ),
        judges=tuple(_read_calibrations(runs, outcomes)),
        disagreements=tuple(disagreements(outcomes)),
        origins=tuple(_read_origin(folder, contents.title) for folder, contents in runs.items()),
    )


def _read_json(path: Path, *, what: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: expected {what}, got another file; restore it, or remove it") from error


def keep_training_log(model: Path) -> None:
    """Copy the log of a trained model next to its folder, because the folder may be deleted when all is answered."""
    log = model / TRAIN_LOG
    if log.is_file():
        write_text(model.with_name(TRAIN_LOG), log.read_text(encoding="utf-8"))


def _read_log(home: Path) -> Entries:
    path = next((one for one in (home / TRAIN_LOG, home / "model" / TRAIN_LOG) if one.is_file()), None)
    if path is None:
        return ()
    rows = _read_json(path, what="the log of a training")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):  # pyright: ignore[reportUnknownVariableType]
        raise RunError(f"{path}: expected a list of logged values, got another file; restore it, or remove it")
    return rows  # pyright: ignore[reportUnknownVariableType]


def _is_term(name: str) -> bool:
    return name == "loss" or name.startswith("loss_") or name == "refusal_probability"


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _training(entry: ModelEntry, rows: Entries) -> TrainingLog | None:
    """Return the logged losses of a model, by term; None without any."""
    logged = [row for row in rows if "loss" in row and isinstance(row.get("step"), int)]
    names = dict.fromkeys(name for row in logged for name in row if _is_term(name))
    if not logged:
        return None
    terms = {name: tuple(_number(row, name) for row in logged) for name in names}
    return TrainingLog(method=entry.label, seed=entry.seed, steps=tuple(row["step"] for row in logged), terms=terms)


def _last(rows: Entries, *names: str) -> float | None:
    """Return the last number that was logged under one of the names."""
    return next((value for row in reversed(rows) for name in names if (value := _number(row, name)) is not None), None)


def _cost(entry: ModelEntry, rows: Entries, *, home: Path, replies: Sequence[Reply]) -> ModelCost:
    path = home / COST_FILE
    cost = _read_json(path, what="the cost of a fine-tuning") if path.is_file() else {}
    steps, tokens = _last(rows, "step"), _last([cost], "tokens") or _last(rows, *_TOKEN_KEYS)
    lengths = [len(one.token_starts) for one in replies if one.token_starts is not None]
    return ModelCost(
        method=entry.label,
        seed=entry.seed,
        steps=None if steps is None else int(steps),
        seconds=_last(rows, "train_runtime"),
        tokens=None if tokens is None else int(tokens),
        peak_memory_gib=_last(rows, "peak_memory_gib"),
        replies=len(replies),
        reply_tokens=sum(lengths) if lengths and len(lengths) == len(replies) else None,
    )


def _read_calibrations(runs: Mapping[Path, RunContents], outcomes: Sequence[Outcome]) -> Iterator[JudgeErrors]:
    """Yield the calibrations of the runs' judges; those of other judges are not of these results."""
    producers: dict[str, list[object]] = {}
    for one in outcomes:
        for judge, verdicts in one.verdicts.items():
            found = (verdict.producer for verdict in verdicts if verdict is not None)
            producers.setdefault(judge, []).append(next(found, None))
    for path in (path for folder in runs for path in sorted(folder.glob(CALIBRATIONS))):
        content = parse_record(Calibration, _read_json(path, what="an output of `derta calibrate`"), where=str(path))
        if content.judge in producers:
            yield JudgeErrors(
                judge=content.judge,
                measure=content.measure,
                labels=content.labels,
                recall=_rate(content.recall),
                specificity=_rate(content.specificity),
                kappa=content.kappa.value,
                is_current=content.producer in producers[content.judge],
            )


def _rate(share: Share) -> Rate:
    return Rate(share.value, share.low, share.high, share.scored, share.unscored)


def _read_origin(folder: Path, title: str) -> RunOrigin:
    path = folder / "manifest.json"
    manifest = _read_json(path, what="a run's manifest")
    try:
        text = yaml.safe_dump(manifest["recipe"], sort_keys=False, allow_unicode=True)
        commit, inputs = manifest["commit"], dict(manifest["inputs"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: expected a run's manifest, got another file; check the path") from error
    variables = tuple(dict.fromkeys(re.findall(r"\$\{?([A-Z_][A-Z0-9_]*)", text)))
    name = folder.parent.name if folder.name == "run" else folder.name
    return RunOrigin(name=name or title, recipe=text, commit=commit, inputs=inputs, variables=variables)
