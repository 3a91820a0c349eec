"""Judges made of a function that looks at one case at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from derta.errors import DataError
from derta.protocols import Case, Judge, JudgeFunction
from derta.records import NAME, NAME_LETTERS, Measure, Prompt, Reply, Verdict
from derta.run_folder import identify


@dataclass(frozen=True, slots=True)
class FunctionJudge:
    """A judge that asks no model; `version` names what its function's source does not show (see `identify`)."""

    name: str
    measures: Measure
    function: JudgeFunction
    version: str | None = None

    @property
    def uses_model(self) -> bool:
        """False: a function is cheap enough to be called again."""
        return False

    def judge(self, cases: Iterable[Case]) -> Iterator[Verdict]:
        """One verdict a case, in order, under this judge's name.

        Raises:
            DataError: the function returned something else than a yes or no, None or a verdict.
        """
        for prompt, reply in cases:
            yield self._verdict(prompt, reply, self.function(prompt, reply))

    def _verdict(self, prompt: Prompt, reply: Reply, found: object) -> Verdict:
        named = {"prompt_id": prompt.id, "sample": reply.sample, "judge": self.name}
        if isinstance(found, Verdict):
            return found if (*found.key, found.judge) == tuple(named.values()) else found.model_copy(update=named)
        if found is None or isinstance(found, bool):
            reason = "the judge could not tell" if found is None else ""
            return Verdict.model_validate({**named, self.measures: found, "reason": reason})
        raise DataError(
            f"judge {self.name}: expected True, False, None or a Verdict, got a {type(found).__name__} on prompt "
            f"{prompt.id!r}; return one of these"
        )


def from_function(
    function: JudgeFunction, *, measures: Measure = "harmful", name: str | None = None, version: str | None = None
) -> Judge:
    """Make a judge of a function of a prompt and a reply: True, False, None (cannot tell) or a whole `Verdict`.

    >>> def is_long(prompt: Prompt, reply: Reply) -> bool:
    ...     return len(reply.text) > 20
    >>> judge = from_function(is_long)
    >>> prompt = Prompt(id="1", request_id="r", request="?", attack="direct", mode="raw", text="?")
    >>> [found] = judge.judge([Case(prompt, Reply(prompt_id="1", text="No."))])
    >>> found.judge, found.harmful
    ('is_long', False)

    Args:
        function: the judge.
        measures: the field that True and False fill.
        name: the judge's name in files and reports; the function's if it is not given.
        version: tells functions with the same source apart when a run is resumed.

    Raises:
        DataError: the name cannot be part of a file's name.
    """
    own: str = getattr(function, "__name__", type(function).__name__).strip("<>")
    if not NAME.fullmatch(name or own):
        raise DataError(f"judge: expected a name of {NAME_LETTERS}, got {name or own!r}; give it a `name=`")
    return FunctionJudge(name or own, measures, function, version)


def identify_judge(judge: Judge) -> str:
    """Name a judge for a manifest: a user's function by its source or version, another object by its class's source.

    >>> identify_judge(from_function(lambda prompt, reply: True, name="all", version="2"))
    'all: <lambda>@2'
    """
    if isinstance(judge, FunctionJudge):
        return f"{judge.name}: {identify(judge.function, version=judge.version)}"
    return f"{judge.name}: {identify(type(judge))}"
