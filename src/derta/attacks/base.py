"""The object that every attack is, and randomness that belongs to a request."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic
from typing import Protocol, cast

from derta.attacks.attempts import open_log
from derta.attacks.search import SearchContext, as_judge, judge_key
from derta.errors import DataError, RecipeError
from derta.protocols import Engine, Judge, JudgeFunction
from derta.records import NAME, NAME_LETTERS, Prompt, Request, short_hash
from derta.run_folder import identify

Crafting = Callable[[Sequence[Request], Random], Iterable[Prompt]]
"""Requests to prompts, with randomness from the generator alone."""


class Searching(Protocol):
    """A search for prompts against a target."""

    def __call__(self, requests: Sequence[Request], *, context: SearchContext, rng: Random) -> Iterator[Prompt]:
        """Yield the best prompt found for each request; what the log holds is not queried again."""
        ...


@dataclass(frozen=True, slots=True)
class Attack:
    """A way to make prompts of requests: either `crafting` from the requests alone, or `searching` against a target.

    An attack never judges its own prompts.

    >>> from derta.attacks import direct
    >>> direct().craft([Request(id="7", text="Why?")])[0].id
    'direct:7'

    Attributes:
        name: The `attack` of its prompts.
        crafting: Requests to prompts.
        searching: Requests and a search's context to prompts.
        needs_attacker: A search that cannot do without a model that writes prompts.
        needs_judge: A search that cannot do without a judge of the target's replies.
        options: The settings that it was built with.
        function: A user's function behind it, by whose source (or `version`) a resumed run knows it again.
        version: In place of the source.
    """

    name: str
    crafting: Crafting | None = None
    searching: Searching | None = None
    needs_attacker: bool = False
    needs_judge: bool = False
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    function: Callable[..., object] | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        if (self.crafting is None) == (self.searching is None):
            raise RecipeError(f"attack {self.name}: expected `crafting` or `searching`, and not both; give one of them")
        if not NAME.fullmatch(self.name):
            raise RecipeError(f"attack: expected a name of {NAME_LETTERS}, got {self.name!r:.60}; give it a `name=`")

    @property
    def searches(self) -> bool:
        """True if it queries a target while it searches for prompts."""
        return self.searching is not None

    @property
    def identity(self) -> str:
        """A name of the attack and its options, and of the source of a user's function, for the manifest of a run.

        Raises:
            RunError: the function has neither a source nor a version.
        """
        function = [] if self.function is None else [identify(self.function, version=self.version)]
        options = json.dumps(self.options, sort_keys=True, default=str)
        return ":".join([self.name, *function, short_hash(options)])

    def craft(self, requests: Iterable[Request], *, seed: int = 0) -> list[Prompt]:
        """Return the prompts for some requests; the same seed and request give the same prompts.

        Raises:
            RecipeError: the attack searches, so it needs a target.
            DataError: two requests share an id, or one lacks what the attack needs.
        """
        if self.crafting is None:
            raise RecipeError(
                f"attack {self.name} queries the target while it searches; call `.search(requests, target=...)`, or "
                f"run `derta attack {self.name} --target MODEL`"
            )
        requests = [*requests]
        check_ids(requests)
        return [*self.crafting(requests, Random(seed))]  # noqa: S311 - reproducible, not secret

    def search(
        self,
        requests: Iterable[Request],
        *,
        target: Engine,
        attacker: Engine | None = None,
        judge: Judge | JudgeFunction | None = None,
        state: str | Path | None = None,
        key: str = "",
        seed: int = 0,
        clock: Callable[[], float] = monotonic,
    ) -> Iterator[Prompt]:
        """Yield the best prompts found against a target, each as soon as it is found, with what it cost.

        Args:
            requests: What the prompts ask for.
            target: The model under attack.
            attacker: The model that writes prompts, for searches that have one.
            judge: Who decides whether a reply is harmful: a judge of `derta.judges`, or a function of a prompt and its
                reply. It guides the search; the prompts found are judged apart from it.
            state: A file for the attempts. A search that was stopped resumes from it; None keeps them in memory.
            key: Names target and attacker, so that the state of a search with other models is refused.
            seed: Of all randomness.
            clock: Seconds, for the cost.

        Raises:
            RecipeError: the attack does not search, or lacks an attacker or a judge.
            DataError: two requests share an id.
            RunError: the state file is another search's.
        """
        if self.searching is None:
            raise RecipeError(
                f"attack {self.name} queries no model; call `.craft(requests)`, without target, attacker and judge"
            )
        if (self.needs_attacker and attacker is None) or (self.needs_judge and judge is None):
            raise RecipeError(
                f"{self.name}: expected an attacker and a judge; give `attacker=` and `judge=` (--attacker and --judge)"
            )
        requests = [*requests]
        check_ids(requests)
        judge_id = "" if judge is None else judge_key(judge, saved=state is not None)
        parts = [self.identity, str(seed), key, judge_id]
        log_key = short_hash(*parts, *(request.model_dump_json() for request in requests))
        context = SearchContext(
            target=target,
            log=open_log(None if state is None else Path(state), key=log_key),
            attacker=attacker,
            judge=None if judge is None else as_judge(judge),
            clock=clock,
        )
        return self.searching(requests, context=context, rng=Random(seed))  # noqa: S311 - reproducible, not secret


def check_ids(requests: Sequence[Request]) -> None:
    """Refuse what is no request, and two requests with one id: their prompts would share ids too.

    Raises:
        DataError: names it, or the id.
    """
    if wrong := [one for one in cast("Sequence[object]", requests) if not isinstance(one, Request)]:
        raise DataError(
            f"expected requests, got {wrong[0]!r:.60}; make each a `derta.Request(id=..., text=...)`, or read a file "
            "with `derta.load_requests`"
        )
    duplicates = [name for name, count in Counter(request.id for request in requests).items() if count > 1]
    if duplicates:
        raise DataError(
            f"expected every request to have its own id, got {duplicates[0]!r} more than once ({len(duplicates)} such "
            "ids); rename or drop the duplicates"
        )


def check_values(attack: str, **options: Sequence[object]) -> None:
    """Refuse a swept option without a value, or with one twice: each value is a prompt of its own.

    Raises:
        RecipeError: names the attack and the option.
    """
    for option, values in options.items():
        if not values or len(set(values)) < len(values):
            raise RecipeError(f"{attack}: expected one or more {option}, each once, got {list(values)}")


def check_answers(requests: Sequence[Request], *, attack: str) -> None:
    """Refuse requests without a harmful answer, for attacks that prefill a part of one.

    Raises:
        DataError: counts them.
    """
    missing = [request.id for request in requests if not (request.harmful or "").strip()]
    if missing:
        raise DataError(
            f"{attack} needs a harmful answer to every request, and {len(missing)} of {len(requests)} have none "
            f"(first: {missing[0]!r}); give the requests a `harmful` field, or make them from triples"
        )


def request_rng(key: str, request: Request) -> Random:
    """Return a generator that belongs to a request, whatever other requests there are."""
    return Random(short_hash(key, request.id))  # noqa: S311 - chance, not secrecy


def per_request(
    name: str, craft_one: Callable[[Request, Random], Iterable[Prompt]], *, needs_answers: bool = False
) -> Attack:
    """Return an attack that treats each request alone; `needs_answers` if it needs their harmful answers.

    The generator given to `craft_one` depends on the seed and on the request's id, not on the other requests: a
    resumed, filtered or reordered file gets the same prompts.
    """

    def crafting(requests: Sequence[Request], rng: Random) -> Iterator[Prompt]:
        if needs_answers:
            check_answers(requests, attack=name)
        key = str(rng.getrandbits(64))
        return (prompt for request in requests for prompt in craft_one(request, request_rng(key, request)))

    return Attack(name, crafting=crafting)
