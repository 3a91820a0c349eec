"""Calibration of a model's decode threshold on benign answers, and its detections in harmful ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, get_args

from derta.data.helpful import load_examples
from derta.data.requests import load_requests
from derta.data.triples import load_triples
from derta.engines import engine_producer, load_engine
from derta.errors import DataError
from derta.locks import check_output
from derta.metrics.cuts import calibrate_bias, calibrate_by_depth, calibrate_cut
from derta.metrics.roc import DEPTHS, Depth, auc, scores_at
from derta.pipeline.likelihoods import answered, direct_prompt, example_text
from derta.records import Example, Prompt, Request
from derta.sources import fields_of, read_rows
from derta.stats import Rate, auc_interval, rate
from derta.thresholds import Per, RefusalThreshold, alarms_in

if TYPE_CHECKING:
    from derta.chat import ChatFormat
    from derta.config import CalibrationSection
    from derta.engines.hf_engine import HfEngine, RefusalStarts

Answers = str | Path | Sequence[Example]
HarmfulAnswers = str | Path | Sequence[Request]


class Calibrated(Protocol):
    """Engine whose model a threshold is calibrated for: the engine `hf`, or one that loads it on first use."""

    @property
    def chat(self) -> ChatFormat:
        """The model's chat format."""
        ...

    @property
    def refusal_words(self) -> tuple[str, ...]:
        """The refusal words."""
        ...

    def refusal_starts(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[RefusalStarts]:
        """Return the probability and the margin of the refusal tokens at each position of each answer."""
        ...


class DepthDetections(NamedTuple):
    """Alarms at a depth, in harmful and in benign answers, and the area under the ROC curve there with its interval."""

    depth: str
    detected: Rate
    false_alarms: Rate
    auc: Rate


class CalibrationResult(NamedTuple):
    """A calibrated threshold, and its detections by depth, if harmful answers were given."""

    threshold: RefusalThreshold
    depths: list[DepthDetections]


def calibrate_threshold(
    model: str | Path | HfEngine,
    benign: Answers,
    *,
    harmful: HarmfulAnswers = (),
    false_alarm: float = 0.01,
    per: Per = "reply",
    by_depth: bool = False,
    limit: int | None = None,
    **settings: Any,
) -> CalibrationResult:
    """Calibrate the threshold from which on decoding forces a refusal word, at a rate of false alarms.

    The benign answers must not be the training's: a model is surer of them than of others.

    >>> from tempfile import mkdtemp
    >>> from derta.demo.run import write_example
    >>> home = write_example(Path(mkdtemp())).parent
    >>> result = calibrate_threshold(home / "base", home / "examples.jsonl", false_alarm=0.2, limit=9, device="cpu")
    >>> result.threshold.alarms <= 1, result.threshold.replies
    (True, 9)

    Args:
        model: Folder or hub id, or an engine of `derta.engines.load_engine`. The threshold of an engine has no identity
            of a model, so only its number can be used.
        benign: Benign conversations with their answers, or their file in a format of `data.helpful`.
        harmful: Requests with harmful answers, or their file, of requests or triples, for the detections.
        false_alarm: The rate on benign answers.
        per: Whether the rate counts replies (any of its positions is an alarm) or positions.
        by_depth: Calibrate a threshold for each range of depths, with half of the replies for their scale.
        limit: Maximum number of benign and of harmful answers.
        settings: Settings of the engine `hf`, such as `adapter`, `template` and `dtype`.

    Raises:
        DataError: too few benign answers for the rate, or a model that refuses too many of them.
        ModelError: the model does not exist, or an answer is too long for it.
    """
    if per not in get_args(Per):
        raise DataError(f"per: expected reply or position, got {per!r:.40}")
    if by_depth and per != "reply":
        raise DataError("by_depth: expected a rate per reply, got one per position; remove one of the two options")
    examples = benign_examples(benign, limit=limit)
    requests = harmful_requests(harmful, limit=limit)
    identity: dict[str, str] = {}
    if isinstance(model, str | Path):
        producer = engine_producer(model, engine="hf", settings=settings)
        identity = {key: producer[key] for key in ("model", "adapter") if key in producer}
        engine: Any = load_engine(model, engine="hf", **settings)
    else:
        engine = model
    return _calibrate(
        engine, examples, requests, identity=identity, false_alarm=false_alarm, per=per, by_depth=by_depth
    )


def _calibrate(
    engine: HfEngine,
    examples: Sequence[Example],
    requests: Sequence[Request],
    *,
    identity: dict[str, str],
    false_alarm: float,
    per: Per,
    by_depth: bool,
) -> CalibrationResult:
    benign = _starts(engine, [example_text(one) for one in examples])
    benign_rows = [one.probabilities for one in benign]
    threshold = _threshold_of(engine, benign, identity=identity, false_alarm=false_alarm, per=per, by_depth=by_depth)
    harmful = _starts(engine, [(direct_prompt(one), one.harmful or "") for one in requests])
    rows = [one.probabilities for one in harmful]
    return CalibrationResult(threshold, detections_by_depth(rows, benign_rows, threshold))


def calibrate_engine(
    engine: Calibrated, examples: Sequence[Example], section: CalibrationSection, *, identity: dict[str, str]
) -> RefusalThreshold:
    """Return the threshold of an engine's model on benign examples, with a recipe's settings.

    Raises:
        DataError: too few benign answers for the rate, or a model that refuses too many of them.
    """
    return _threshold_of(
        engine,
        _starts(engine, [example_text(one) for one in examples]),
        identity=identity,
        false_alarm=section.false_alarm,
        per=section.per,
        by_depth=section.by_depth,
    )


def _threshold_of(
    engine: Calibrated,
    benign: Sequence[RefusalStarts],
    *,
    identity: dict[str, str],
    false_alarm: float,
    per: Per,
    by_depth: bool,
) -> RefusalThreshold:
    from derta.chat import refusal_tokens

    benign_rows = [one.probabilities for one in benign]
    if by_depth:
        cut = calibrate_by_depth(benign_rows, false_alarm=false_alarm, rng=Random(0))  # noqa: S311 - reproducible
    else:
        cut = calibrate_cut(benign_rows, false_alarm=false_alarm, per=per)
    bias = calibrate_bias([one.margins for one in benign], false_alarm=false_alarm)
    return RefusalThreshold(
        threshold=cut.value,
        later=cut.later,
        token_ids=refusal_tokens(engine.chat, engine.refusal_words).ids,
        refusal_words=engine.refusal_words,
        model=identity,
        false_alarm=false_alarm,
        per=per,
        alarms=cut.alarms,
        cases=cut.cases,
        replies=len(benign),
        low=cut.low,
        high=cut.high,
        logit_bias=bias.value,
        bias_alarms=bias.alarms,
    )


def _starts(engine: Calibrated, texts: Sequence[tuple[Prompt, str]]) -> list[RefusalStarts]:
    return engine.refusal_starts([prompt for prompt, _ in texts], [text for _, text in texts]) if texts else []


def detections_by_depth(
    harmful: Sequence[Sequence[float]], benign: Sequence[Sequence[float]], threshold: RefusalThreshold
) -> list[DepthDetections]:
    """Return the alarms of a threshold in harmful and in benign answers at each depth that both reach."""
    found: list[DepthDetections] = []
    for depth in DEPTHS:
        positive, negative = scores_at(harmful, depth), scores_at(benign, depth)
        if positive and negative:
            area, cases = auc(positive, negative), len(positive) + len(negative)
            low, high = auc_interval(area, len(positive), len(negative))
            detected, false_alarms = _alarms(harmful, threshold, depth), _alarms(benign, threshold, depth)
            found.append(DepthDetections(depth.name, detected, false_alarms, Rate(area, low, high, cases, 0)))
    return found


def _alarms(rows: Sequence[Sequence[float]], threshold: RefusalThreshold, depth: Depth) -> Rate:
    end = None if depth.last is None else depth.last + 1
    reached = [row[:end] for row in rows if len(row) > depth.first]
    return rate([alarms_in(row, threshold.threshold, threshold.later, first=depth.first) for row in reached])


def benign_examples(source: Answers, *, limit: int | None = None) -> list[Example]:
    """Return the conversations with an answer of a file or a list.

    Raises:
        DataError: there are none, or the file has no helpful format.
    """
    examples = load_examples(source) if isinstance(source, str | Path) else source
    found = answered(examples)[:limit]
    if not found:
        name = source if isinstance(source, str | Path) else "benign"
        raise DataError(f"{name}: expected benign conversations with an answer, got none; see docs/threshold.md")
    return found


def harmful_requests(source: HarmfulAnswers, *, limit: int | None = None) -> list[Request]:
    """Return the requests with harmful answers of a file or a list: requests with `harmful`, or triples.

    Raises:
        DataError: a file has none.
    """
    if not isinstance(source, str | Path):
        return list(source)[:limit]
    if {"id", "text", "harmful"} <= {*fields_of(next(iter(read_rows(source))))}:
        found = [one for one in load_requests(source) if one.harmful]
    else:
        found = [
            Request(id=one.id, text=one.query, harmful=one.harmful, messages=one.messages, tools=one.tools)
            for one in load_triples(source)
        ]
    if not found:
        raise DataError(f"{source}: expected requests with a harmful answer, got none; see docs/threshold.md")
    return found[:limit]


def calibrate_threshold_file(
    model: str, *, benign: Path, harmful: Path | None, out: Path | None, **options: Any
) -> CalibrationResult:
    """Calibrate a model's threshold and write its file; `options` are those of `calibrate_threshold`.

    Raises:
        DataError: see `calibrate_threshold`, or the output is an input.
    """
    if out is not None:
        check_output(out, [benign, *([harmful] if harmful else [])])
    result = calibrate_threshold(model, benign, harmful=harmful or (), **options)
    if out is not None:
        result.threshold.write(out)
    return result
