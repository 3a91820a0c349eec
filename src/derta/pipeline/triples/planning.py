"""What `derta triples` needs before its first call: configuration, requests, checks, and the number of calls."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from derta.config import PolicyRequests, TriplesConfig, expand_triples_config, load_triples_config, parse_triples_config
from derta.data.policy import read_clauses
from derta.errors import DataError, RecipeError
from derta.pipeline.judge import engine_loader
from derta.pipeline.registry import check_engines
from derta.pipeline.triples import counterparts, harmful, safe
from derta.pipeline.triples.asking import count_done, harm_judge
from derta.pipeline.triples.requests import AcceptedRequests, accept_requests, load_sources
from derta.pipeline.triples.rows import Stage, StagePlan
from derta.pipeline.triples.written import count_calls, count_rounds, count_wanted, replies_path
from derta.records import Request

Config = TriplesConfig | Mapping[str, Any] | Path | str
"""A configuration, its values, or the path of a YAML file with them."""


def plan_triples(
    config: Config,
    *,
    out: Path | str,
    requests: Iterable[Request] | None = None,
    benign: Iterable[Request] = (),
    endpoints: Sequence[str] = (),
    env: Sequence[str] = (),
) -> list[StagePlan]:
    """Return the calls that each stage needs at most, without loading a model; for the arguments see `make_triples`.

    A safe response is only written to a request with a harmful one, and an answer only to a counterpart that is kept.

    Raises:
        RecipeError, DataError, EngineError: as in `make_triples`.
    """
    loaded, folder = read_config(config, env=env), Path(out)
    plans: list[StagePlan] = []
    lookalikes = 0
    if (policy := loaded.policy_requests) is not None and requests is None:
        clauses = len(read_clauses(policy.policy))
        done = sum(count_done(replies_path(folder, number)) for number in range(count_rounds(policy)))
        plans.append(_plan("policy", policy.model, count_calls(policy, clauses=clauses), done))
        accepted = [Request(id=f"{policy.policy}/{number}", text="?") for number in range(clauses * policy.per_clause)]
        lookalikes = clauses * count_wanted(policy, "lookalikes")
    else:
        accepted = find_requests(loaded, requests).requests
    others = find_benign(loaded, benign, ids={one.id for one in accepted}).requests
    check_config(loaded, endpoints=endpoints, env=env)
    count = len(accepted)
    opened = [one.prompt for one in harmful.harmful_prompts(accepted, loaded.harmful).prompts]
    samples = loaded.harmful.num_samples
    plans += [
        _plan("harmful", loaded.harmful.model, len(opened) * samples, count_done(folder / harmful.REPLIES, opened))
    ]
    if loaded.safe.model is None:
        plans.append(_plan("safe", safe.TEMPLATES, 0, 0))
    else:
        plans.append(
            _plan("safe", loaded.safe.model, count * loaded.safe.num_samples, count_done(folder / safe.REPLIES))
        )
    if (part := loaded.counterpart) is not None:
        done = count_done(folder / counterparts.REPLIES, counterparts.counterpart_prompts(accepted))
        plans.append(_plan("counterparts", part.model, count, done))
        answers = count_done(folder / counterparts.ANSWERS)
        plans.append(_plan("answers", (part.answers or part).model, count + lookalikes + len(others), answers))
    return plans


def _plan(stage: Stage, source: str, calls: int, done: int) -> StagePlan:
    return StagePlan(stage=stage, source=source, calls=calls, done=min(calls, done))


def read_config(config: Config, *, env: Sequence[str] = ()) -> TriplesConfig:
    """Return a configuration from a file, its values, or a configuration, with expanded paths.

    Raises:
        RecipeError: it is not valid.
    """
    if isinstance(config, str | Path):
        return load_triples_config(Path(config), env=env)
    parsed = config if isinstance(config, TriplesConfig) else parse_triples_config(config)
    return expand_triples_config(parsed, env=env)


def find_requests(config: TriplesConfig, requests: Iterable[Request] | None) -> AcceptedRequests:
    """Return the requests that are used, and all dropped ones; those of a policy are written before."""
    if requests is None and not config.requests:
        raise RecipeError("expected a source of requests, got none; add a file, or pass `requests=`", key="requests")
    sources = () if isinstance(config.requests, PolicyRequests) else config.requests
    loaded = load_sources(sources) if requests is None else AcceptedRequests(list(requests), [])
    accepted = accept_requests(loaded.requests)
    return accepted._replace(dropped=[*loaded.dropped, *accepted.dropped])


def find_benign(config: TriplesConfig, requests: Iterable[Request], *, ids: Collection[str]) -> AcceptedRequests:
    """Return benign requests and those of the configuration, and all dropped ones.

    Raises:
        DataError: one has an id of `ids`, those of the harmful requests, which are the ids of counterparts.
        RecipeError: the configuration has no model that answers them.
    """
    given, part = list(requests), config.counterpart
    if part is None:
        if given:
            raise RecipeError("expected a model that answers benign requests, got none; add it", key="counterpart")
        return AcceptedRequests([], [])
    loaded = load_sources(part.requests)
    if not (given or loaded.requests):
        return loaded
    accepted = accept_requests([*given, *loaded.requests])
    if shared := next((one.id for one in accepted.requests if one.id in ids), None):
        raise DataError(f"benign requests: expected other ids than harmful ones, got {shared!r} for both; rename it")
    return accepted._replace(dropped=[*loaded.dropped, *accepted.dropped])


def check_config(config: TriplesConfig, *, endpoints: Sequence[str] = (), env: Sequence[str] = ()) -> None:
    """Check engines, judges, templates and policies before the first call.

    Raises:
        DataError, EngineError, RecipeError: one of them is not valid.
    """
    if config.policy_requests is not None:
        read_clauses(config.policy_requests.policy)
    check_engines(config.engines, endpoints, env=env)
    for engine in config.engines:
        engine_loader(engine)
    harm_judge(config.harmful.judge, key="harmful.judge")
    if config.counterpart is not None and config.counterpart.judge is not None:
        harm_judge(config.counterpart.judge, key="counterpart.judge")
    if config.safe.model is None:
        safe.read_templates(config.safe.templates, words=config.refusal_words, normalize=config.safe.normalize)
    else:
        safe.read_policy(config.safe)


def config_notes(config: TriplesConfig) -> list[str]:
    """Return what the user should know about a configuration, before the first call.

    Raises:
        ModelError: the model of safe responses has no tokenizer or no chat template.
    """
    notes: list[str] = []
    judge, part, refuser = config.harmful.judge, config.counterpart, config.safe.engine_config
    if judge.model == config.harmful.model:
        notes.append(f"the judge of harmful responses is their writer, {judge.model}; another judge is more reliable")
    if refuser is not None and config.safe.policy_in == "auto" and safe.policy_place(config.safe, refuser) == "user":
        notes.append(
            f"{refuser.model}: its chat template takes no system message, so the policy is in the user message"
        )
    if part is not None and part.judge is None:
        notes.append("the harm of answers to counterparts is not checked; set `counterpart.judge` to check it")
    if part is not None and part.judge is not None and part.judge.model == (part.answers or part).model:
        notes.append(f"the judge of answers to counterparts is their writer, {part.judge.model}")
    return notes
