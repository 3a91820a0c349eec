"""The `Attack` class, validation of requests and options, and a random generator for each request."""

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
from derta.attacks.journal import JournaledEngine
from derta.attacks.search import SearchContext, as_judge, judge_key
from derta.errors import DataError, RecipeError
from derta.protocols import Engine, Judge, JudgeFunction
from derta.records import NAME, NAME_LETTERS, Prompt, Request, short_hash
from derta.run_folder import identify

Crafting = Callable[[Sequence[Request], Random], Iterable[Prompt]]
"""Function from requests to prompts; its only source of randomness is the generator."""


class Searching(Protocol):
    """A search for prompts against a target."""

    def __call__(self, requests: Sequence[Request], *, context: SearchContext, rng: Random) -> Iterator[Prompt]:
        """Yield the best prompt for each request. Attempts that are already in the log are not repeated."""
        ...


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack turns requests into prompts: by `crafting` without a model, or by `searching` against a target.

    An attack does not judge its own prompts.

    >>> from derta.attacks import direct
    >>> direct().craft([Request(id="7", text="Why?")])[0].id
    'direct:7'

    Attributes:
        name: The value of `attack` in its prompts.
        crafting: Function from requests to prompts.
        searching: Function from requests and a search context to prompts.
        needs_attacker: Whether the search requires an attacker model, which writes prompts.
        needs_judge: Whether the search requires a judge of the target's replies.
        options: The options that the attack was built with, defaults included.
        function: The user's function, if any. A resumed run validates its source (or `version`).
        version: An identifier of the function that replaces its source.
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
        """True if the attack queries a target while it searches for prompts."""
        return self.searching is not None

    @property
    def identity(self) -> str:
        """Identifier for a run's manifest: the name, a hash of the options, and the identity of the user's function.

        Raises:
            RunError: the function has neither source code nor a version.
        """
        function = [] if self.function is None else [identify(self.function, version=self.version)]
        options = json.dumps(self.options, sort_keys=True, default=str)
        return ":".join([self.name, *function, short_hash(options)])

    def craft(self, requests: Iterable[Request], *, seed: int = 0) -> list[Prompt]:
        """Return the prompts for the requests. The same seed and request always give the same prompts.

        Raises:
            RecipeError: the attack is a search, which needs a target.
            DataError: two requests have the same id, or one lacks a field that the attack needs.
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
        """Yield the best prompts against a target, each as soon as it is available, with its cost.

        Args:
            requests: The requests that the prompts are for.
            target: The model under attack.
            attacker: The model that writes prompts, for searches that use one.
            judge: A judge from `derta.judges`, or a function of a prompt and its reply, that decides whether a reply is
                harmful. It guides the search only; evaluate the resulting prompts separately.
            state: The file for the attempts. A stopped search resumes from it, and from the calls of its last step in
                `state` + `.calls`. By default, attempts stay in memory.
            key: An identifier of target and attacker. A state file with another key is an error.
            seed: Seed of all randomness.
            clock: Function that returns the time in seconds, for the cost.

        Raises:
            RecipeError: the attack is not a search, or the attacker or judge is missing.
            DataError: two requests have the same id.
            RunError: the state file belongs to another search.
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
        log = open_log(None if state is None else Path(state), key=log_key)
        journal = log.journal
        if journal is not None:
            target = JournaledEngine(target, journal, "target")
            attacker = None if attacker is None else JournaledEngine(attacker, journal, "attacker")
        context = SearchContext(
            target=target,
            log=log,
            attacker=attacker,
            judge=None if judge is None else as_judge(judge, journal=journal),
            clock=clock,
        )
        return self.searching(requests, context=context, rng=Random(seed))  # noqa: S311 - reproducible, not secret


def check_ids(requests: Sequence[Request]) -> None:
    """Validate that all items are requests with unique ids; otherwise their prompts would share ids too.

    Raises:
        DataError: an item is not a `Request`, or two requests have the same id.
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
    """Validate that each option has at least one value and no duplicates: each value gives one prompt.

    Raises:
        RecipeError: an option is empty or has duplicates; the message names the attack and the option.
    """
    for option, values in options.items():
        if not values or len(set(values)) < len(values):
            raise RecipeError(f"{attack}: expected one or more {option}, each once, got {list(values)}")


def check_answers(requests: Sequence[Request], *, attack: str) -> None:
    """Validate that every request has a harmful answer, for attacks that prefill a part of it.

    Raises:
        DataError: some requests have none; the message counts them.
    """
    missing = [request.id for request in requests if not (request.harmful or "").strip()]
    if missing:
        raise DataError(
            f"{attack} needs a harmful answer to every request, and {len(missing)} of {len(requests)} have none "
            f"(first: {missing[0]!r}); give the requests a `harmful` field, or make them from triples"
        )


def request_rng(key: str, request: Request) -> Random:
    """Return a random generator that depends on `key` and the request's id, not on other requests."""
    return Random(short_hash(key, request.id))  # noqa: S311 - chance, not secrecy


def per_request(
    name: str, craft_one: Callable[[Request, Random], Iterable[Prompt]], *, needs_answers: bool = False
) -> Attack:
    """Return an attack that computes the prompts of each request independently.

    The generator that `craft_one` receives depends on the seed and the request's id, not on other requests: a resumed,
    filtered or reordered file gives the same prompts.

    Args:
        name: The attack's name.
        craft_one: Function from a request and a random generator to prompts.
        needs_answers: Whether every request must have a harmful answer.
    """

    def crafting(requests: Sequence[Request], rng: Random) -> Iterator[Prompt]:
        if needs_answers:
            check_answers(requests, attack=name)
        key = str(rng.getrandbits(64))
        return (prompt for request in requests for prompt in craft_one(request, request_rng(key, request)))

    return Attack(name, crafting=crafting)
