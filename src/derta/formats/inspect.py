"""Export to Inspect's `.eval` log format, the input of its viewer and tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from derta.errors import EngineError, install_advice
from derta.formats.cases import JudgedCase
from derta.formats.file_names import sample_id
from derta.records import Measure, Message, Suite, short_hash
from derta.run_folder import versions
from derta.stats import rate

EXPECTED: Mapping[Suite, str] = {"attack": "refuse", "over_refusal": "answer", "helpfulness": "answer"}
"""Targets of attacks, whose reference answer is harmful, and of samples without a reference answer."""
STOP_REASONS = {"eos": "stop", "stop": "stop", "length": "max_tokens", "unknown": "unknown"}


def write_log(path: Path, cases: Sequence[JudgedCase], *, model: str, judges: Sequence[str], now: datetime) -> None:
    """Write one model's cases as an Inspect log, with one score for each measure of a judge, named `judge:measure`.

    The task is the cell of the cases, or `derta` if they are of several. An unscored verdict is Inspect's unscored
    value with the judge's reason, and is left out of the means. A case without a verdict has no score. The usage has
    the tokens of the prompt and the reply, where the engine counted them. The target is what the reply should do:
    refuse an attack, or give the reference answer of a harmless request, or any answer. The samples of a prompt are
    Inspect's epochs.

    Raises:
        EngineError: the package inspect-ai is missing.

    Source: inspect.aisi.org.uk, `inspect_ai.log` (format 2).
    """
    if find_spec("inspect_ai") is None:
        raise EngineError(f"--format inspect: expected the package inspect-ai, found none; {install_advice('inspect')}")
    inspect: Any = import_module("inspect_ai.log")
    scores: list[tuple[str, Measure]] = [(judge, measure) for judge in judges for measure in _measures(cases, judge)]
    cells = list(dict.fromkeys((case.prompt.suite, case.prompt.cell) for case in cases))
    name = short_hash(model, *(case.prompt.id for case in cases))
    samples = [_sample(inspect, case, model=model, scores=scores) for case in cases]
    created = now.isoformat(timespec="seconds")
    sample_ids = list(dict.fromkeys(sample_id(case.prompt.id) for case in cases))
    log = inspect.EvalLog(
        status="success",
        eval=inspect.EvalSpec(
            eval_id=name,
            run_id=name,
            task_id=name,
            created=created,
            task=cells[0][1] if len(cells) == 1 else "derta",
            tags=list(dict.fromkeys(suite for suite, _ in cells)),
            model=model,
            dataset=inspect.EvalDataset(
                name=cells[0][1] if len(cells) == 1 else "prompts", samples=len(sample_ids), sample_ids=sample_ids
            ),
            config=inspect.EvalConfig(epochs=1 + max((case.reply.sample for case in cases), default=0)),
            packages=versions(),
        ),
        results=inspect.EvalResults(
            total_samples=len(cases),
            completed_samples=len(cases),
            scores=[_total(inspect, cases, judge, measure) for judge, measure in scores],
        ),
        stats=inspect.EvalStats(started_at=created, completed_at=created, model_usage=_total_usage(model, samples)),
        samples=samples,
    )
    partial = path.with_name(path.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    inspect.write_eval_log(log, partial, format="eval")
    partial.replace(path)


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
    output.usage = _usage(case)
    input_messages = model_input if messages else [_message(Message(role="user", content=prompt.text or ""))]
    return inspect.EvalSample(
        id=sample_id(prompt.id),
        epoch=case.reply.sample + 1,
        input=model_input,
        target=(prompt.answer if prompt.suite != "attack" else None) or EXPECTED[prompt.suite],
        messages=[*input_messages, output.message],
        output=output,
        model_usage={} if output.usage is None else {model: output.usage},
        scores={
            f"{judge}:{measure}": _score(case, judge, measure) for judge, measure in scores if judge in case.verdicts
        },
        metadata={
            "prompt_id": prompt.id,
            "request": prompt.request,
            "answer": prompt.answer,
            "request_id": prompt.request_id,
            "suite": prompt.suite,
            "cell": prompt.cell,
            "attack": prompt.attack,
            "variant": prompt.variant,
            "dataset": prompt.dataset,
            "category": prompt.category,
            "prefilled": bool(prompt.prefill),
            "mode": prompt.mode,
        },
    )


def _usage(case: JudgedCase) -> Any:
    """Return the tokens of a case in Inspect's format; None if the engine did not count those of the reply."""
    reply = case.reply
    if reply.token_ids is None:
        return None
    prompt_tokens, reply_tokens = reply.prompt_tokens or 0, len(reply.token_ids)
    usage: Any = import_module("inspect_ai.model").ModelUsage
    return usage(input_tokens=prompt_tokens, output_tokens=reply_tokens, total_tokens=prompt_tokens + reply_tokens)


def _total_usage(model: str, samples: Sequence[Any]) -> dict[str, Any]:
    usages = [sample.output.usage for sample in samples if sample.output.usage is not None]
    return {model: sum(usages[1:], start=usages[0])} if usages else {}


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
