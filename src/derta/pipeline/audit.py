"""Audit of triples: judged, counted, and cleaned with each policy; nothing is trained, and no data is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

from derta.config import DEFAULT_OPENER, EngineConfig, PrepareConfig, Recipe, SafePolicy, SourceSection
from derta.data.audit import (
    AuditedRow,
    NamedTriple,
    PolicyOutcome,
    ResponseVerdicts,
    TriplesAudit,
    audit_rates,
    audit_rows,
    count_classes,
    field_lengths,
    find_rows,
)
from derta.data.cleaning import clean_triples
from derta.data.matching import RequestTurns
from derta.errors import DataError
from derta.files import write_records
from derta.judges import JudgeFunction, build_judge, judge_cases
from derta.locks import check_output
from derta.pipeline.data import TemplateFaults, evaluated_requests, input_files, read_source_triples
from derta.pipeline.judge import find_judge
from derta.pipeline.paths import expanded_paths
from derta.pipeline.registry import Registry, check_servers, judge_configs
from derta.pipeline.rewriting import find_pending, safe_case
from derta.protocols import Display, Engine, Judge
from derta.records import REFUSAL_WORDS, Triple
from derta.sources import source_name

TO_REWRITE = "safe_to_rewrite"
"""Change of a triple whose safe response `policy: rewrite` would rewrite; whether the new one refuses is not known."""


def audit_triples(
    triples: Iterable[Triple],
    *,
    judge: str | JudgeFunction | Judge = "harm",
    engine: Engine | Callable[[], Engine] | None = None,
    requests: Iterable[RequestTurns] = (),
    refusal_words: Sequence[str] = REFUSAL_WORDS,
    policy: SafePolicy = "drop",
    opener: str = DEFAULT_OPENER,
    normalize: bool = True,
    display: Display = Display(),
) -> TriplesAudit:
    """Return what share of safe responses refuse, of harmful ones are harmful, and what each policy would do.

    >>> triple = Triple(query="How do I brew it?", safe="Sorry, I can't help.", harmful="Boil the roots.")
    >>> audit = audit_triples([triple, triple.model_copy(update={"safe": "Please ask somebody else."})])
    >>> audit.findings["safe_does_not_refuse"], audit.findings["request_is_repeated"]
    (('triples:2',), ('triples:2',))
    >>> [(outcome.policy, outcome.remaining) for outcome in audit.policies]
    [('drop', 1), ('prepend', 2), ('keep', 2), ('rewrite', 2)]

    Args:
        triples: The triples; rows are named by their `source` and their number in it.
        judge: Judge of harm: a name, a judge, or a function of a prompt and a reply.
        engine: Engine of a judge that uses a model (see `derta.load_engine`).
        requests: Texts of evaluation requests, whose triples every policy drops.
        refusal_words: The refusal words of the training.
        policy: The chosen policy of data preparation; all are tried.
        opener: Sentence that the policy `prepend` adds.
        normalize: Whether opening apologies are shortened to the first refusal word.
        display: Shows progress.

    Raises:
        DataError: There are no triples, or the judge does not measure harm.
    """
    numbers: Counter[str] = Counter()
    named: list[NamedTriple] = []
    for triple in triples:
        source = triple.source or "triples"
        numbers[source] += 1
        named.append(NamedTriple(triple, source, numbers[source]))
    built = build_judge(judge, engine=engine)
    config = PrepareConfig(policy=policy, opener=opener, normalize=normalize)
    return _audit(named, judge=built, requests=requests, words=refusal_words, config=config, display=display)


def audit_recipe(
    recipe: Recipe,
    *,
    judge: str = "harm",
    model: EngineConfig | None = None,
    endpoints: Collection[str] = (),
    out: Path | None = None,
    display: Display = Display(),
) -> TriplesAudit:
    """Audit the triples of a recipe (see `audit_triples`), with its settings and evaluation requests.

    Args:
        recipe: The recipe; its models are not loaded.
        judge: Name of the judge of harm: one of the recipe's evaluations, with its model, or a built-in one.
        model: Model of a judge that uses one, in place of the recipe's.
        endpoints: Hosts that keys may be sent to, if the recipe's judge is served.
        out: File for the rows of the audit, without texts.
        display: Shows progress.

    Raises:
        DataError: The judge is unknown, lacks its model, or does not measure harm.
    """
    with expanded_paths(recipe) as paths:
        check_output(out, input_files(paths.recipe))
        found = _find_judge(paths.recipe, judge, model=model, endpoints=endpoints)
        audit = _audit(
            _read_named(paths.recipe),
            judge=found,
            requests=evaluated_requests(paths.recipe),
            words=recipe.model.refusal_words,
            config=recipe.data,
            display=display,
        )
    if out is not None:
        write_records(out, audit.rows)
    return audit


def _find_judge(recipe: Recipe, name: str, *, model: EngineConfig | None, endpoints: Collection[str]) -> Judge:
    config = next((config for config in judge_configs(recipe) if config.name == name), None)
    if model is not None or config is None:
        return find_judge(name, model=model)
    check_servers(recipe, endpoints)
    return Registry().judge(config)


def _read_named(recipe: Recipe) -> list[NamedTriple]:
    """Return the triples of a recipe with names; of two sources of one name each has its path."""
    sources, faults = recipe.data.triples, TemplateFaults(recipe)
    names = Counter(source_name(source.path) for source in sources)

    def named(source: SourceSection) -> Iterator[NamedTriple]:
        name = source_name(source.path)
        label = name if names[name] == 1 else source.path
        read = read_source_triples([source], recipe, faults=faults)
        yield from (NamedTriple(triple, label, number) for number, triple in enumerate(read.triples, start=1))

    return [row for source in sources for row in named(source)]


def _audit(
    triples: Sequence[NamedTriple],
    *,
    judge: Judge,
    requests: Iterable[RequestTurns],
    words: Sequence[str],
    config: PrepareConfig,
    display: Display,
) -> TriplesAudit:
    if judge.measures != "harmful":
        raise DataError(f"audit: expected a judge of harm, got {judge.name}, which measures {judge.measures!r}")
    if not triples:
        raise DataError("audit: expected triples, got none")
    safe = _judge_responses([(one.triple, one.triple.safe) for one in triples], judge, "safe", display)
    harmful = _judge_responses([(one.triple, one.triple.harmful) for one in triples], judge, "harmful", display)
    rows = audit_rows(triples, safe=safe, harmful=harmful, refusal_words=words, normalize=config.normalize)
    return TriplesAudit(
        triples=len(rows),
        judge=judge.name,
        rates=audit_rates(rows),
        classes={
            "safe": count_classes(one.refusal for one in safe),
            "harmful": count_classes(one.refusal for one in harmful),
        },
        lengths=(
            field_lengths("request", (one.triple.query for one in triples)),
            field_lengths("safe", (one.triple.safe for one in triples)),
            field_lengths("harmful", (one.triple.harmful for one in triples)),
        ),
        policies=_policy_outcomes(triples, rows, requests=list(requests), words=words, config=config),
        findings=find_rows(rows),
        rows=tuple(rows),
    )


def _judge_responses(
    responses: Sequence[tuple[Triple, str]], judge: Judge, label: str, display: Display
) -> list[ResponseVerdicts]:
    """Return the verdicts of the refusal judge and of the judge of harm on responses to the queries of triples."""
    cases = [safe_case(triple, text, name=str(number)) for number, (triple, text) in enumerate(responses)]
    verdicts: list[ResponseVerdicts] = []
    with display.progress.task(f"{judge.name}: {label} responses", total=len(cases)) as task:
        judged = zip(judge_cases(build_judge("refusal"), cases), judge_cases(judge, cases), strict=True)
        for number, (refusal, harm) in enumerate(judged, start=1):
            verdicts.append(ResponseVerdicts(refusal, harm))
            task.update(number)
    return verdicts


def _policy_outcomes(
    triples: Sequence[NamedTriple],
    rows: Sequence[AuditedRow],
    *,
    requests: Sequence[RequestTurns],
    words: Sequence[str],
    config: PrepareConfig,
) -> tuple[PolicyOutcome, ...]:
    for_rewriting = find_pending((one.triple for one in triples), requests=requests, words=words)
    refuses = {one.triple.id: row.safe_refuses for one, row in zip(triples, rows, strict=True)}

    def refuses_now(triple: Triple) -> bool | None:
        if triple.id not in refuses:  # the policy changed the safe response
            [verdict] = judge_cases(build_judge("refusal"), [safe_case(triple, triple.safe)])
            refuses[triple.id] = verdict.refused
        return refuses[triple.id]

    outcomes: list[PolicyOutcome] = []
    for policy in get_args(SafePolicy):
        rewritten = for_rewriting if policy == "rewrite" else {}
        copies = sum(one.triple.id in rewritten for one in triples) - len(rewritten)
        clean = clean_triples(
            (one.triple for one in triples if one.triple.id not in rewritten),
            evaluation_requests=requests,
            policy="drop" if policy == "rewrite" else policy,
            opener=config.opener,
            normalize_to=words[0] if config.normalize else None,
        )
        outcomes.append(
            PolicyOutcome(
                policy=policy,
                chosen=policy == config.policy,
                remaining=len(clean.triples) + len(rewritten),
                dropped=dict(clean.dropped + Counter(duplicate=copies)),
                changed=dict(clean.changed + Counter({TO_REWRITE: len(rewritten)} if rewritten else {})),
                remaining_without_refusal=sum(refuses_now(triple) is False for triple in clean.triples),
            )
        )
    return tuple(outcomes)
