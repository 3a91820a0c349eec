"""Judges that use a model through any engine, for one of the `RUBRICS`.

The request is the original one, without the attack around it. A verdict that is not a valid option is unscored, with a
reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice

from derta.errors import DataError, DertaError, ModelError, ServerError, did_you_mean
from derta.judges.base import only_answered
from derta.judges.harm import valid_request
from derta.judges.judge_prompts import judge_prompt, load_template
from derta.judges.refusal import structure
from derta.judges.rubrics import RUBRICS, ParsedVerdict, Rubric
from derta.protocols import Case, Engine, EngineLoader, Judge
from derta.records import Measure, Prompt, Reply, Verdict, short_hash

CHUNK = 256  # cases per batch: enough to use an engine fully, few enough for memory


@dataclass(frozen=True, slots=True)
class ModelJudge:
    """Judge of one of the `RUBRICS` with an engine, which is loaded for the first cases."""

    name: str
    load: Callable[[], Engine] = field(repr=False)
    measures: Measure = "harmful"
    engine_producer: Callable[[], Mapping[str, str]] = field(default=dict, repr=False)

    @property
    def uses_model(self) -> bool:
        """True: its verdicts are expensive and are written one by one."""
        return True

    def producer(self) -> dict[str, str]:
        """Return the provenance of the verdicts: the judge, a hash of its rubric, and its model's provenance."""
        rubric = RUBRICS[self.name]
        names = [] if rubric.template is None else [rubric.template]
        names += ["harmbench_contextual"] if rubric.template == "harmbench" else []
        lines = "" if rubric.lines is None else rubric.lines.pattern
        identity = short_hash(*map(load_template, names), rubric.mode, lines, str(rubric.max_new_tokens))
        return {"judge": self.name, "rubric": identity, **self.engine_producer()}

    def judge(self, cases: Iterable[Case]) -> Iterator[Verdict]:
        """Yield one verdict for each case, in order, in batches of `CHUNK` cases; the last verdict of an output counts.

        An empty reply is not harmful. Unscored, with a reason, are an unknown request, and a judge whose output is a
        refusal, is empty, has no valid verdict or is truncated before it. Cases without an output because of an engine
        error are unscored too, with `retry`. After the loss of the engine's servers, no further request is sent.
        """
        return only_answered(self.name, self._judge, cases, measures=self.measures)

    def _judge(self, cases: Iterable[Case]) -> Iterator[Verdict]:
        remaining, model = iter(cases), JudgeModel(self.load)
        while batch := list(islice(remaining, CHUNK)):
            yield from _judge_chunk(model, self.name, batch)


def llm(rubric: str = "guideline", *, engine: Engine | Callable[[], Engine]) -> Judge:
    """Return a judge of harm that asks a model: the recommended judge for attack success that is published.

    In a recipe, it is an entry of `judges`, such as `{name: guideline, model: org/model, engine: api}`.

    >>> from derta.engines.scripted import ScriptedModel
    >>> judge = llm("guideline", engine=ScriptedModel(lambda prompt: "It gives the steps. VERDICT: UNSAFE"))
    >>> prompt = Prompt(id="1", request_id="r", request="How is tea made?", attack="direct", mode="raw", text="?")
    >>> [verdict.harmful for verdict in judge.judge([Case(prompt, Reply(prompt_id="1", text="Boil water."))])]
    [True]

    Args:
        rubric: Key of `RUBRICS`.
        engine: Any engine (see `derta.load_engine`), or a function that loads it, called once for the first cases;
            `harmbench` and `llama_guard_3` require the model of that name.

    Raises:
        DataError: Unknown rubric.
    """
    if rubric not in RUBRICS:
        raise DataError(f"judge: unknown rubric {rubric!r}; {did_you_mean(rubric, RUBRICS)}")
    known = engine.producer if isinstance(engine, EngineLoader) else lambda: {"engine": type(engine).__name__}
    return ModelJudge(rubric, cache(engine) if callable(engine) else lambda: engine, engine_producer=known)


def _judge_chunk(model: JudgeModel, judge_name: str, cases: Sequence[Case]) -> Iterator[Verdict]:
    """Yield the verdicts of one batch of cases."""
    judge = RUBRICS[judge_name]
    reasons = [_verdict_without_model(prompt, reply) for prompt, reply in cases]
    prompts = [
        judge_prompt(judge_name, case, prompt_id=f"case-{i}")
        for i, (case, reason) in enumerate(zip(cases, reasons, strict=True))
        if reason is None
    ]
    outputs = model.generate_replies(prompts, max_new_tokens=judge.max_new_tokens)
    for i, ((prompt, reply), reason) in enumerate(zip(cases, reasons, strict=True)):
        parsed = reason or _parse_reply(judge, outputs[f"case-{i}"])
        reply_class = None if reply.text.strip() else "empty"
        yield Verdict(
            prompt_id=prompt.id, sample=reply.sample, judge=judge_name, reply_class=reply_class, **parsed._asdict()
        )


def _verdict_without_model(prompt: Prompt, reply: Reply) -> ParsedVerdict | None:
    """Return the verdict on a case that is not sent to the model; None for all others."""
    if not reply.text.strip():
        return ParsedVerdict(False, "the reply is empty")
    if not valid_request(prompt.request):
        return ParsedVerdict(None, "the request is unknown, and the judge needs it")
    return None


@dataclass(slots=True)
class JudgeModel:
    """Model of a judge, loaded for the first prompts; `lost` is the error message once its servers are lost."""

    load: Callable[[], Engine]
    lost: str | None = None

    def generate_replies(self, prompts: Sequence[Prompt], *, max_new_tokens: int) -> dict[str, Reply | str]:
        """Return the outputs by prompt id, or an error message for each prompt without one.

        After an error for a prompt that is not valid for the engine, such as one that is too long for its model, the
        others are retried in smaller batches. After the loss of the servers, no prompt is sent.
        """
        if self.lost:
            return {prompt.id: self.lost for prompt in prompts}
        engine, outputs, failure = self.load(), dict[str, Reply | str](), "the engine gave no reply"
        try:
            for output in engine.generate(prompts, max_new_tokens=max_new_tokens):
                outputs[output.prompt_id] = output
        except (DertaError, OSError, RuntimeError) as error:  # invalid prompt, lost server, full GPU: unscored, retry
            failure = f"the engine failed: {' '.join(str(error).split())[:400]}"
            self.lost = failure if isinstance(error, ServerError) else None
            missing = [prompt for prompt in prompts if prompt.id not in outputs]
            if isinstance(error, ModelError) and len(prompts) > 1:
                half = (len(missing) + 1) // 2
                for part in (missing[:half], missing[half:]):
                    outputs |= self.generate_replies(part, max_new_tokens=max_new_tokens) if part else {}
        return {prompt.id: failure for prompt in prompts} | outputs


def _parse_reply(judge: Rubric, output: Reply | str) -> ParsedVerdict:
    """Parse the output of a judge, or return the engine's error with `retry`."""
    if isinstance(output, str):
        return ParsedVerdict(None, output, retry=True)
    if output.unanswered:
        reason = f"the judge gave no reply ({output.unanswered}): {output.reason}"
        return ParsedVerdict(None, reason, retry=output.unanswered != "filtered")
    if not output.text.strip():
        return ParsedVerdict(None, "the judge's reply is empty")
    if judge.reasons_first and output.stop_reason == "length":
        return ParsedVerdict(None, f"the judge was cut off after {judge.max_new_tokens} tokens")
    parsed = judge.parse(output.text)
    if parsed.harmful is None and structure(output.text).reply_class == "refuse":
        return ParsedVerdict(None, "the judge refused")
    return parsed
