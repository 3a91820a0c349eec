"""Judging of files: replies in any format to rates."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from derta.engines import check_settings, engine_producer, load_engine
from derta.errors import DataError, EngineError
from derta.files import Appender, read_records, write_records
from derta.formats.replies import prompts_beside, read_cases
from derta.formats.shards import REPLIES, is_sharded, read_shards, shard_path
from derta.judges import JUDGES, build_judge, judge_cases, judge_producer, uses_model
from derta.locks import check_output, lock
from derta.metrics.over_refusal import over_refusal_cells
from derta.pipeline.file_rates import FileCounts, FileRates
from derta.pipeline.resuming import Expected, judge_missing, log_failures, supersede
from derta.protocols import Case, Display, EngineLoader, Judge
from derta.provenance import SUPERSEDED, case_hash
from derta.records import REFUSAL_WORDS, ReplyKey, Verdict
from derta.results import Cell

if TYPE_CHECKING:
    from derta.config import EngineConfig


def engine_loader(config: EngineConfig) -> EngineLoader:
    """Return a function that loads a model into its engine, with settings that are checked now, and its provenance.

    Raises:
        EngineError: an unknown engine, an unknown setting, or a value that is not valid.
    """
    check_settings(config.engine, config.settings)
    return EngineLoader(
        partial(load_engine, config.model, engine=config.engine, **config.settings),
        partial(engine_producer, config.model, engine=config.engine, settings=config.settings),
    )


def find_judge(name: str, *, model: EngineConfig | None = None, refusal_words: Sequence[str] = REFUSAL_WORDS) -> Judge:
    """Return a judge by name; the model of a judge that uses one is loaded on first use.

    The refusal judge detects malformed refusals by the refusal words that the models were trained with.

    Raises:
        DataError: an unknown name (the message suggests the nearest), a missing model, or a model without a use.
        EngineError: the model's engine or one of its settings is unknown.
    """
    if model is None or name not in JUDGES:
        options: dict[str, Any] = {"refusal_words": refusal_words} if name == "refusal" else {}
        return build_judge(name, **options)
    if not uses_model(name):
        raise DataError(f"judge {name!r} uses no model; remove its model")
    return build_judge(name, engine=engine_loader(model))


def find_judges(
    first: str,
    second: str | None,
    *,
    model: EngineConfig | None = None,
    refusal_words: Sequence[str] = REFUSAL_WORDS,
) -> tuple[Judge, Judge | None]:
    """Return one or two judges by name; `model` is shared by those that use a model, as are the refusal words.

    Raises:
        DataError: a judge is unknown or lacks its model, or neither judge uses one.
        EngineError: the model's engine or one of its settings is unknown.
    """
    model_names = [name for name in (first, second) if name is not None and name in JUDGES and uses_model(name)]

    def find(name: str) -> Judge:
        return find_judge(
            name, model=model if name in model_names or not model_names else None, refusal_words=refusal_words
        )

    return find(first), None if second is None else find(second)


def judge_file(
    path: Path,
    *,
    judge: Judge,
    prompts_path: Path | None = None,
    out: Path | None = None,
    pool: bool = False,
    collect_into: list[Verdict] | None = None,
    display: Display = Display(),
) -> FileRates:
    """Judge every reply of a file and return the rate of all, and of each model and cell if there are several.

    Replies are streamed, unless the judge uses a model: then all are held in memory, each verdict is appended to `out`
    as soon as it exists, and only missing verdicts are requested. Of a folder of shards, one shard is held in memory,
    and `out` is a folder with a file of verdicts for each.

    Args:
        path: The file of replies, or a folder of shards.
        judge: The judge.
        prompts_path: The file of the prompts, if it is not next to the replies.
        out: The output file of the verdicts, or of shards their folder, which may be that of the replies.
        pool: Return a rate of all also where attacks and harmless requests are mixed.
        collect_into: A list that the verdicts are appended to.
        display: Shows progress.

    Raises:
        RunError: `out` is an input, holds another judge model's verdicts or none, or another process writes it.
        EngineError: the judge's engine failed on all replies of a shard; the others are not sent to it.
    """
    check_output(out, [None if is_sharded(path) else path, prompts_path])
    counts = FileCounts(judge)

    def counted(verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
        for verdict in verdicts:
            counts.add(verdict)
            if collect_into is not None:
                collect_into.append(verdict)
            yield verdict

    for part in _parts(path, judge.name, prompts_path=prompts_path, out=out):
        cases = counts.reading(part.cases)
        if judge.uses_model:
            verdicts = list(counted(_model_verdicts(judge, list(cases), path=part.path, out=part.out, display=display)))
            if is_sharded(path):
                _check_engine(part.path, verdicts)
        elif part.out is None:
            deque(counted(judge_cases(judge, cases)), maxlen=0)
        else:
            with lock(part.out):
                write_records(part.out, counted(_judge_again(judge, cases, part.out, display=display)))
    counts.warn(path, display)
    return counts.rates(path.stem, pool=pool)


class _Part(NamedTuple):
    """Replies that are judged at a time: a file, or one shard."""

    path: Path
    cases: Iterable[Case]
    out: Path | None


def _parts(path: Path, judge: str, *, prompts_path: Path | None, out: Path | None) -> Iterator[_Part]:
    if not is_sharded(path):
        yield _Part(path, read_cases(path, prompts_path=prompts_path), out)
        return
    for number, cases in read_shards(path, prompts_path or prompts_beside(path / REPLIES)):
        part_out = None if out is None else shard_path(out, f"verdicts.{judge}", number)
        yield _Part(shard_path(path, REPLIES, number), cases, part_out)


def _check_engine(path: Path, verdicts: Sequence[Verdict]) -> None:
    if verdicts and all(verdict.retry for verdict in verdicts):
        raise EngineError(
            f"{path}: the judge's engine failed on all {len(verdicts)} replies ({verdicts[0].reason}); check it, then "
            "run the same command again"
        )


def _judge_again(judge: Judge, cases: Iterable[Case], out: Path, *, display: Display) -> Iterator[Verdict]:
    """Yield a function judge's verdicts, which replace those that the file holds.

    Verdicts of another judge, or on other replies, are no earlier version of these: they move to `*.superseded.jsonl`.
    """
    producer = judge_producer(judge)
    existing = read_records(out, Verdict) if out.stat().st_size else iter(())
    expected: deque[Expected] = deque()

    def hashed() -> Iterator[Case]:
        for case in cases:
            expected.append(Expected(case_hash(*case), producer))
            yield case

    replaces = True
    for verdict in judge_cases(judge, hashed()):
        stamped = expected.popleft().stamp(verdict)
        old = next(existing, stamped)
        replaces &= (old.key, old.judge) == (stamped.key, stamped.judge)
        yield stamped
    if not replaces or next(existing, None) is not None:
        store = out.with_suffix(f"{SUPERSEDED}{out.suffix}")
        others = list(read_records(out, Verdict))
        with Appender(store) as file:
            for record in others:
                file.add(record)
        display.logger.warning("%s held %d other verdicts, which are in %s now", out, len(others), store.name)


def over_refusal_file(path: Path, *, judge: Judge, prompts_path: Path | None = None, mixed: bool = False) -> list[Cell]:
    """Return the over-refusal rates of replies to harmless requests: partial refusals, answers, and refusal tokens.

    `judge` is the refusal judge. Of a file that is `mixed` with attacks, only the sets of the suite over-refusal count.
    """
    fields = {} if mixed else {"suite": "over_refusal", "dataset": path.stem}
    cases = (
        (case.prompt.model_copy(update=fields), case.reply, next(judge_cases(judge, [case])))
        for case in read_cases(path, prompts_path=prompts_path, quiet=True)
    )
    return over_refusal_cells(cases, method="", seed=None, judge="refusal")


def expected_verdicts(judge: Judge, cases: Iterable[Case]) -> dict[ReplyKey, Expected]:
    """Return the provenance of the verdict on each reply."""
    producer = judge_producer(judge)
    return {case.reply.key: Expected(case_hash(*case), producer) for case in cases}


def _model_verdicts(
    judge: Judge, cases: Sequence[Case], *, path: Path, out: Path | None, display: Display
) -> Iterator[Verdict]:
    """Yield the verdicts of a judge that uses a model; with `out`, only missing verdicts are requested."""
    if out is not None:
        expected = expected_verdicts(judge, cases)
        if old := supersede(out, Verdict, expected, only_changed_inputs=True):
            display.logger.info("%s: %d verdicts on other replies are superseded; these replies are judged", out, old)
        yield from judge_missing(
            out,
            Verdict,
            expected=expected,
            judge=judge.name,
            judge_replies=lambda missing: judge_cases(judge, (case for case in cases if case.reply.key in missing)),
            display=display,
        )
        return
    verdicts: list[Verdict] = []
    with display.progress.task(f"{judge.name}: verdicts", total=len(cases)) as task:
        for verdict in judge_cases(judge, cases):
            verdicts.append(verdict)
            yield verdict
            task.update(len(verdicts))
    log_failures(path, verdicts, display)
