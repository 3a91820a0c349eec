"""Making of triples and counter rows from requests: the stages in order, their files, and the summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from derta.config import PolicyRequests, SourceSection, TriplesConfig
from derta.files import write_records, write_text
from derta.locks import lock
from derta.pipeline.triples.asking import Models, distinct_share
from derta.pipeline.triples.counterparts import BenignAnswers, Counterparts, answer_benign, make_counterparts
from derta.pipeline.triples.harmful import HarmfulResponses, make_harmful
from derta.pipeline.triples.planning import Config, check_config, config_notes, find_benign, find_requests, read_config
from derta.pipeline.triples.requests import AcceptedRequests, accept_requests
from derta.pipeline.triples.rows import (
    NO_COST,
    Cost,
    CounterRow,
    Dropped,
    Origin,
    Stage,
    StageSummary,
    TripleRow,
    TriplesSummary,
)
from derta.pipeline.triples.safe import TEMPLATES, SafeResponse, SafeResponses, make_safe
from derta.pipeline.triples.written import WrittenRequests, shortfall_notes, write_requests
from derta.protocols import Display
from derta.records import Message, Request
from derta.sources import source_name
from derta.sources.named import named_set

TRIPLES, COUNTER, DROPPED, SUMMARY, REQUESTS = (
    "triples.jsonl",
    "counter.jsonl",
    "dropped.jsonl",
    "summary.json",
    "requests.jsonl",
)
"""Files of the output folder, next to the prompts and replies of each stage."""


class _Made(NamedTuple):
    """The output of all stages; `written` are the requests of a policy."""

    harmful: HarmfulResponses
    safe: SafeResponses
    counterparts: Counterparts | None
    answers: BenignAnswers | None
    written: WrittenRequests | None = None


def make_triples(
    config: Config,
    *,
    out: Path | str,
    requests: Iterable[Request] | None = None,
    benign: Iterable[Request] = (),
    endpoints: Sequence[str] = (),
    env: Sequence[str] = (),
    display: Display = Display(),
) -> TriplesSummary:
    """Make triples and counter rows from requests, write them to a folder, and return the summary.

    The folder has `triples.jsonl` and `counter.jsonl`, which recipes read; `dropped.jsonl` with the ids of what was
    dropped and the reasons; `summary.json`; and the prompts and replies of each stage. The same command again
    generates only what is missing.

    >>> make_triples({"harmful": {"model": "org/base", "form": "completing"}}, out="made")
    Traceback (most recent call last):
    derta.errors.RecipeError: requests: expected a source of requests, got none; add a file, or pass `requests=`

    Args:
        config: The configuration (`derta.config.TriplesConfig`), its values, or a YAML file with them.
        out: The folder.
        requests: The harmful requests. None: those of the configuration.
        benign: Benign requests that become counter rows too, such as requests that look harmful.
        endpoints: Hosts that keys may be sent to.
        env: Environment variables that the configuration may use in paths, in addition to `DERTA_*`.
        display: Shows progress.

    Raises:
        RecipeError: the configuration is not valid.
        DataError: the requests or the templates cannot be read, no request can be used, or a judge is unknown.
        EngineError: no server answers, or a key would be sent to a server that is not allowed.
        ModelError: a model cannot be loaded.
    """
    loaded, folder = read_config(config, env=env), Path(out)
    policy = loaded.policy_requests if requests is None else None
    accepted = find_requests(loaded, requests) if policy is None else AcceptedRequests([], [])
    given = list(benign)
    others = find_benign(loaded, given, ids={one.id for one in accepted.requests})
    check_config(loaded, endpoints=endpoints, env=env)
    notes = config_notes(loaded)
    for note in notes:
        display.logger.warning(note)
    models = Models()
    with lock(folder / SUMMARY):
        written = None
        if policy is not None:
            written = write_requests(policy, out=folder, models=models, display=display)
            accepted = accept_requests(written.requests())
            given += written.requests("lookalikes") if loaded.counterpart is not None else []
            others = find_benign(loaded, given, ids={one.id for one in accepted.requests})
            notes += shortfall_notes(policy, written.clauses)
        accepted = accepted._replace(dropped=accepted.dropped + others.dropped)
        write_records(folder / REQUESTS, accepted.requests if written is None else written.kept["requests"])
        made = _run_stages(loaded, accepted.requests, others.requests, out=folder, models=models, display=display)
        made = made._replace(written=written)
        licence = loaded.licence or default_licence(loaded)
        origins = {} if written is None else written.origins()
        triples = triple_rows(
            accepted.requests, made.harmful, made.safe, config=loaded, licence=licence, origins=origins
        )
        counter = counter_rows(made, licence=licence)
        write_records(folder / TRIPLES, triples)
        if loaded.counterpart is not None:
            write_records(folder / COUNTER, counter)
        write_records(folder / DROPPED, _dropped(accepted, made))
        summary = TriplesSummary(
            requests=len(accepted.requests),
            triples=len(triples),
            counter=len(counter),
            without_triple=len(accepted.requests) - len({row.request_id for row in triples}),
            clauses=() if written is None else tuple(written.clauses),
            stages=_stage_summaries(loaded, accepted, made),
            notes=tuple(notes),
            licence=licence,
        )
        write_text(folder / SUMMARY, summary.model_dump_json(indent=2) + "\n")
    return summary


def default_licence(config: TriplesConfig) -> str:
    """Return a note with the licences of named data sets, and the models whose terms apply to a row.

    >>> from derta.config import parse_triples_config
    >>> config = parse_triples_config({"requests": {"name": "strongreject"}, "harmful": {"model": "org/base"}})
    >>> default_licence(config)
    'Requests: strongreject (MIT). Responses: terms of the models that wrote them (org/base).'
    """
    if (policy := config.policy_requests) is not None:
        sources = [f"terms of the model that wrote them ({policy.model})"]
    else:
        listed = () if isinstance(config.requests, PolicyRequests) else config.requests
        sources = [_source_licence(source) for source in listed] or ["licence of their source"]
    part = config.counterpart
    models = [config.harmful.model, config.safe.model]
    models += [] if part is None else [part.model, (part.answers or part).model]
    writers = ", ".join(dict.fromkeys(one for one in models if one))
    return f"Requests: {', '.join(sources)}. Responses: terms of the models that wrote them ({writers})."


def _source_licence(source: SourceSection) -> str:
    if source.name is None:
        return f"licence of {source_name(source.path)}"
    return f"{source.name} ({named_set(source.name).licence or 'no licence stated'})"


def _run_stages(
    config: TriplesConfig,
    requests: Sequence[Request],
    benign: Sequence[Request],
    *,
    out: Path,
    models: Models,
    display: Display,
) -> _Made:
    words = config.refusal_words
    harmful = make_harmful(requests, config.harmful, refusal_words=words, out=out, models=models, display=display)
    needed = [request for request in requests if request.id in harmful.kept]
    counts = {name: len(responses) * config.safe.responses for name, responses in harmful.kept.items()}
    safe = make_safe(needed, config.safe, counts=counts, refusal_words=words, out=out, models=models, display=display)
    counterparts = answers = None
    if (part := config.counterpart) is not None:
        counterparts = make_counterparts(requests, part, refusal_words=words, out=out, models=models, display=display)
        asked = [*counterparts.requests, *benign]
        answers = answer_benign(asked, part, refusal_words=words, out=out, models=models, display=display)
    models.release()
    return _Made(harmful, safe, counterparts, answers)


def triple_rows(
    requests: Sequence[Request],
    harmful: HarmfulResponses,
    safe: SafeResponses,
    *,
    config: TriplesConfig,
    licence: str,
    origins: Mapping[str, Origin],
) -> list[TripleRow]:
    """Return the rows of requests with harmful and safe responses; each harmful one has `safe.responses` safe ones."""
    return [
        TripleRow(
            query=request.text,
            safe=refusal.text,
            harmful=response.text,
            category=request.category,
            source=config.harmful.model,
            messages=request.messages,
            tools=request.tools,
            request_id=request.id,
            request_origin=origins.get(request.id),
            harmful_origin=response.origin,
            safe_origin=refusal.origin,
            licence=licence,
        )
        for request in requests
        for number, response in enumerate(harmful.kept.get(request.id, ()))
        for refusal in _in_turn(safe.kept.get(request.id, []), number=number, count=config.safe.responses)
    ]


def _in_turn(refusals: Sequence[SafeResponse], *, number: int, count: int) -> list[SafeResponse]:
    """Return the safe responses of one harmful response, the next `count` ones, each once."""
    first = number * count
    return [refusals[place % len(refusals)] for place in range(first, first + min(count, len(refusals)))]


def counter_rows(made: _Made, *, licence: str) -> list[CounterRow]:
    """Return the rows of benign requests with helpful answers."""
    origins = {} if made.counterparts is None else made.counterparts.origins
    origins = origins if made.written is None else origins | made.written.origins("lookalikes")
    return [
        CounterRow(
            messages=(*one.request.conversation, Message(role="assistant", content=one.text)),
            tools=one.request.tools,
            source=one.origin.source,
            request_id=one.request.id,
            request_origin=origins.get(one.request.id),
            answer_origin=one.origin,
            licence=licence,
        )
        for one in (() if made.answers is None else made.answers.kept)
    ]


def _dropped(accepted: AcceptedRequests, made: _Made) -> list[Dropped]:
    parts = [made.written, accepted, made.harmful, made.safe, made.counterparts, made.answers]
    return [one for part in parts if part is not None for one in part.dropped]


def _stage_summaries(config: TriplesConfig, accepted: AcceptedRequests, made: _Made) -> tuple[StageSummary, ...]:
    part, harmful, safe = config.counterpart, made.harmful, made.safe
    requests = [one.text for one in accepted.requests]
    stages: list[StageSummary] = []
    if (written := made.written) is not None:
        texts = [one.text for kind in written.kept.values() for one in kind]
        stages.append(_stage("policy", written.source, texts, written.dropped, written.cost))
    stages += [
        _stage("requests", "", requests, accepted.dropped),
        _stage("harmful", config.harmful.model, _texts(harmful), harmful.dropped, harmful.cost),
        _stage("safe", config.safe.model or TEMPLATES, _texts(safe), safe.dropped, safe.cost),
    ]
    if part is not None and (parts := made.counterparts) is not None and (answers := made.answers) is not None:
        texts = [one.text for one in parts.requests]
        stages.append(_stage("counterparts", part.model, texts, parts.dropped, parts.cost))
        texts, source = [one.text for one in answers.kept], (part.answers or part).model
        stages.append(_stage("answers", source, texts, answers.dropped, answers.cost))
    return tuple(stages)


def _texts(responses: HarmfulResponses | SafeResponses) -> list[str]:
    return [one.text for each in responses.kept.values() for one in each]


def _stage(
    stage: Stage, source: str, texts: Sequence[str], dropped: Sequence[Dropped], cost: Cost = NO_COST
) -> StageSummary:
    reasons = Counter(one.reason for one in dropped)
    return StageSummary(
        stage=stage,
        source=source,
        made=len(texts) + len(dropped),
        kept=len(texts),
        dropped=dict(reasons.most_common()),
        distinct=distinct_share(texts),
        **cost._asdict(),
    )
