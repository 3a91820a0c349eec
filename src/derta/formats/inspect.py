"""Export to Inspect's `.eval` log format, the input of its viewer and tools."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from derta.errors import EngineError, install_advice
from derta.formats.cases import JudgedCase
from derta.records import Measure, Message, short_hash
from derta.run_folder import versions
from derta.stats import rate

_PATH_TRICK = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|\\|^\w:")
"""Parts of a path that are empty, `.` or `..`, backslashes, and a drive of Windows."""
_NOT_IN_NAMES = re.compile(r"[^\w@%+., -]")

STOP_REASONS = {"eos": "stop", "stop": "stop", "length": "max_tokens", "unknown": "unknown"}


def write_log(path: Path, cases: Sequence[JudgedCase], *, model: str, judges: Sequence[str], now: datetime) -> None:
    """Write one model's cases as an Inspect log, with one score for each measure of a judge, named `judge:measure`.

    An unscored verdict is Inspect's unscored value with the judge's reason, and is left out of the means. A case
    without a verdict has no score.

    Raises:
        EngineError: the package inspect-ai is missing.

    Source: inspect.aisi.org.uk, `inspect_ai.log` (format 2).
    """
    if find_spec("inspect_ai") is None:
        raise EngineError(f"--format inspect: expected the package inspect-ai, found none; {install_advice('inspect')}")
    inspect: Any = import_module("inspect_ai.log")
    scores: list[tuple[str, Measure]] = [(judge, measure) for judge in judges for measure in _measures(cases, judge)]
    name = short_hash(model, *(case.prompt.id for case in cases))
    created = now.isoformat(timespec="seconds")
    sample_ids = [sample_id(case.prompt.id) for case in cases]
    log = inspect.EvalLog(
        status="success",
        eval=inspect.EvalSpec(
            eval_id=name,
            run_id=name,
            task_id=name,
            created=created,
            task="derta",
            model=model,
            dataset=inspect.EvalDataset(name="prompts", samples=len(cases), sample_ids=sample_ids),
            config=inspect.EvalConfig(epochs=1),
            packages=versions(),
        ),
        results=inspect.EvalResults(
            total_samples=len(cases),
            completed_samples=len(cases),
            scores=[_total(inspect, cases, judge, measure) for judge, measure in scores],
        ),
        stats=inspect.EvalStats(started_at=created, completed_at=created),
        samples=[_sample(inspect, case, model=model, scores=scores) for case in cases],
    )
    partial = path.with_name(path.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    inspect.write_eval_log(log, partial, format="eval")
    partial.replace(path)


def sample_id(prompt_id: str) -> str:
    """Return the id of a sample, which Inspect uses as a file name in its archive.

    It is the prompt's id. If that could be a path out of the folder to which the archive is extracted, its other
    characters are replaced and a hash is appended.

    >>> sample_id("prefill@50%:7"), sample_id("../../7")
    ('prefill@50%:7', '.._.._7-4d6d17f18882353d')
    """
    if prompt_id.isprintable() and not _PATH_TRICK.search(prompt_id):
        return prompt_id
    return f"{_NOT_IN_NAMES.sub('_', prompt_id)[:100]}-{short_hash(prompt_id)}"


def _measures(cases: Sequence[JudgedCase], judge: str) -> list[Measure]:
    """Return the measures for which a judge has a scored verdict in any case."""
    measures: tuple[Measure, ...] = get_args(Measure)
    return [measure for measure in measures if any(case.outcome(judge, measure) is not None for case in cases)]


def _total(inspect: Any, cases: Sequence[JudgedCase], judge: str, measure: Measure) -> Any:
    total = rate([case.outcome(judge, measure) for case in cases if judge in case.verdicts])
    mean = [] if total.value is None else [inspect.EvalMetric(name="mean", value=total.value)]
    return inspect.EvalScore(
        name=f"{judge}:{measure}",
        scorer=judge,
        scored_samples=total.scored,
        unscored_samples=total.unscored,
        metrics={metric.name: metric for metric in mean},
    )


def _sample(inspect: Any, case: JudgedCase, *, model: str, scores: Sequence[tuple[str, Measure]]) -> Any:
    prompt, reply = case.prompt, case.reply
    messages = list(prompt.messages or ())
    if prompt.prefill:
        messages.append(Message(role="assistant", content=prompt.prefill))
    model_input: Any = [_message(message) for message in messages] if messages else prompt.text or ""
    output = import_module("inspect_ai.model").ModelOutput.from_content(
        model,
        reply.text,
        stop_reason="content_filter" if reply.unanswered == "filtered" else STOP_REASONS[reply.stop_reason],
    )
    input_messages = model_input if messages else [_message(Message(role="user", content=prompt.text or ""))]
    return inspect.EvalSample(
        id=sample_id(prompt.id),
        epoch=1,
        input=model_input,
        target=prompt.answer or "",
        messages=[*input_messages, output.message],
        output=output,
        scores={
            f"{judge}:{measure}": _score(case, judge, measure) for judge, measure in scores if judge in case.verdicts
        },
        metadata={
            "prompt_id": prompt.id,
            "request": prompt.request,
            "request_id": prompt.request_id,
            "suite": prompt.suite,
            "cell": prompt.cell,
            "category": prompt.category,
            "prefilled": bool(prompt.prefill),
            "mode": prompt.mode,
        },
    )


def _message(message: Message) -> Any:
    kinds = {
        "system": "ChatMessageSystem",
        "user": "ChatMessageUser",
        "assistant": "ChatMessageAssistant",
        "tool": "ChatMessageTool",
    }
    return vars(import_module("inspect_ai.model"))[kinds[message.role]](content=message.shown)


def _score(case: JudgedCase, judge: str, measure: Measure) -> Any:
    verdict, value = case.verdicts[judge], case.outcome(judge, measure)
    score: Any = import_module("inspect_ai.scorer").Score
    more = {
        "explanation": verdict.reason or None,
        "metadata": {"reply_class": verdict.reply_class, "refusal_at": verdict.refusal_at},
    }
    return score.unscored(reason="scoring_failed", **more) if value is None else score(value=float(value), **more)
