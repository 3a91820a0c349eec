"""Judging of files: replies in any format to one rate, or to a paired comparison."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derta.engines import check_settings, engine_producer, load_engine
from derta.errors import DataError
from derta.files import Appender, read_records, write_records
from derta.formats.pairing import keyed_case, pair_cases
from derta.formats.replies import read_cases
from derta.judges import JUDGES, build_judge, judge_cases, judge_producer, uses_model
from derta.locks import check_output, lock
from derta.metrics.comparisons import compare_cells, power_notes
from derta.metrics.kinds import empty_note, is_empty
from derta.metrics.rates import outcome_of, over_refusal_cells
from derta.pipeline.resuming import Expected, judge_missing, log_failures, supersede
from derta.protocols import Case, Display, EngineLoader, Judge
from derta.provenance import SUPERSEDED, case_hash
from derta.records import REFUSAL_WORDS, Prompt, ReplyClass, ReplyKey, Verdict
from derta.results import Cell, Comparison, Place, cell_of, place_of
from derta.stats import Outcome, rate_of_counts

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


def judge_groups(
    path: Path,
    *,
    judge: Judge,
    prompts_path: Path | None = None,
    out: Path | None = None,
    collect_into: list[Verdict] | None = None,
    classes: Counter[ReplyClass] | None = None,
    display: Display = Display(),
) -> list[Cell]:
    """Judge every reply of a file and return the rate of all, and of each model and attack if there are several.

    Replies are streamed, unless the judge uses a model: then all are held in memory, each verdict is appended to `out`
    as soon as it exists, and only missing verdicts are requested.

    Args:
        path: The file of replies.
        judge: The judge.
        prompts_path: The file of the prompts, if it is not next to the replies.
        out: The output file of the verdicts.
        collect_into: A list that the verdicts are appended to.
        classes: A counter that the classes of the scored replies, and the number of empty ones, are added to.
        display: Shows progress.

    Raises:
        RunError: `out` is an input, holds another judge model's verdicts or none, or another process writes it.
    """
    check_output(out, [path, prompts_path])
    groups: dict[_Group, Counter[Outcome]] = {}
    read: deque[_Group] = deque()  # of the cases without a verdict yet
    first_missing, num_empty = "", 0
    reasons: Counter[str] = Counter()  # of the unscored replies

    def grouped() -> Iterator[Case]:
        nonlocal num_empty
        for case in read_cases(path, prompts_path=prompts_path):
            model = (case.reply.producer or {}).get("model", "") if case.prompt.foreign else ""
            read.append((model, place_of(case.prompt)))
            num_empty += is_empty(case.reply)
            yield case

    def counted(verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
        nonlocal first_missing
        for verdict in verdicts:
            groups.setdefault(read.popleft(), Counter())[outcome_of(verdict, judge.measures)] += 1
            if verdict.outcome(judge.measures) is None and not verdict.unanswered and len(reasons) < 1000:
                reasons[f"{verdict.reason:.200}"] += 1
            if verdict.unanswered and not first_missing:
                first_missing = f"{verdict.prompt_id!r}: {verdict.reason:.200}"
            if collect_into is not None:
                collect_into.append(verdict)
            if classes is not None and verdict.reply_class not in (None, "empty"):
                classes[verdict.reply_class] += verdict.outcome(judge.measures) is not None
            yield verdict

    if judge.uses_model:
        deque(counted(_model_verdicts(judge, list(grouped()), path=path, out=out, display=display)), maxlen=0)
    elif out is None:
        deque(counted(judge_cases(judge, grouped())), maxlen=0)
    else:
        with lock(out):
            write_records(out, counted(_judge_again(judge, grouped(), out, display=display)))
    total = sum(groups.values(), Counter[Outcome]())
    if total["unanswered"]:
        display.logger.warning(
            "%s: %d of %d prompts are unanswered and have no verdict (%s)",
            path,
            total["unanswered"],
            total.total(),
            first_missing,
        )
    num_answered = total.total() - total["unanswered"]
    if note := empty_note(str(path), share=num_empty / max(1, num_answered), total=num_answered):
        display.logger.warning("%s", note)
    if classes is not None and num_empty:
        classes["empty"] = num_empty
    if reasons and not total[True] + total[False]:
        [(reason, count)] = reasons.most_common(1)
        display.logger.warning("%s: no reply has a verdict; %d of %d: %s", path, count, total.total(), reason)
    place = Place("helpfulness" if judge.measures == "correct" else "attack", path.stem)
    cells = [_cell_of_counts(total, judge, place)]
    if len(groups) > 1:
        cells += [_cell_of_counts(counts, judge, place, model) for (model, place), counts in groups.items()]
    return cells


_Group = tuple[str, Place]
"""A model, empty if it is unknown, and the attack or dataset of a prompt."""


def _cell_of_counts(counts: Counter[Outcome], judge: Judge, place: Place, model: str = "") -> Cell:
    rate = rate_of_counts(
        counts[True], scored=counts[True] + counts[False], unscored=counts[None], unanswered=counts["unanswered"]
    )
    return cell_of(rate, place=place, method=model, seed=None, judge=judge.name, measure=judge.measures)


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


def over_refusal_file(path: Path, *, judge: Judge, prompts_path: Path | None = None) -> list[Cell]:
    """Return the over-refusal rates of replies to harmless requests: partial refusals, answers, and refusal tokens.

    `judge` is the refusal judge.
    """
    fields = {"suite": "over_refusal", "dataset": path.stem}
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


def compare_files(
    first: Path, second: Path, *, judge: Judge, prompts_path: Path | None = None, display: Display = Display()
) -> list[Comparison]:
    """Compare two files' replies to the same prompts, and return a comparison for each cell.

    The rows of other projects' files are paired by their request and prompt, see `derta.formats.pairing`.

    Raises:
        DataError: the files have no prompt in common, or a file has neither requests nor ids.
    """
    files = [(path, list(read_cases(path, prompts_path=prompts_path))) for path in (first, second)]
    keyed, unpaired = pair_cases(files)
    cases = [{key: keyed_case(key, case) for key, case in one.items()} for one in keyed]
    for path, count in unpaired.items():
        display.logger.warning("%s: %d rows have no request or id and are left out", path, count)
    judged = [_judge_cases(one, judge) for one in cases]
    for path, one in zip((first, second), judged, strict=True):
        log_failures(path, [verdict for _, verdict in one], display)
    comparisons = compare_cells(
        {0: judged[0]},
        {0: judged[1]},
        first_name=side_name(first),
        second_name=side_name(second),
        judge=judge.name,
        measure=judge.measures,
    )
    if not comparisons:
        raise DataError(f"{first} and {second}: expected replies to the same prompts, got none in common")
    prompt_ids = [{prompt_id for prompt_id, _ in one} for one in cases]
    if alone := len(prompt_ids[0] ^ prompt_ids[1]):
        display.logger.warning("%d prompts are in only one of the files and are left out", alone)
    for note in power_notes(comparisons):
        display.logger.info(note)
    return comparisons


def side_name(path: Path) -> str:
    """Return the name of a file in a comparison: the folder of a run's replies, or the file's stem."""
    return path.parent.name if path.name == "replies.jsonl" else path.stem


def _judge_cases(cases: Mapping[ReplyKey, Case], judge: Judge) -> list[tuple[Prompt, Verdict]]:
    verdicts = judge_cases(judge, cases.values())
    return [(case.prompt, verdict) for case, verdict in zip(cases.values(), verdicts, strict=True)]
