"""`derta gate`: whether a method of a run keeps limits, for continuous integration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from derta.config import recommended_method
from derta.errors import RecipeError, RunError, did_you_mean
from derta.formats.junit import JUnitCase, write_junit
from derta.metrics.gates import FloorResult, floor_line, judge_floor, parse_floor
from derta.metrics.measures import Judged
from derta.metrics.outcomes import identified
from derta.pipeline.frontier import Evaluated, read_evaluated
from derta.protocols import Display


class GateResult(NamedTuple):
    """The judged method, the method that `@baseline` names, and the result of each floor."""

    method: str
    baseline: str
    floors: list[FloorResult]

    @property
    def passed(self) -> bool:
        """Whether every floor holds."""
        return all(one.passed for one in self.floors)


def gate(
    *sources: Path | str,
    at_most: Sequence[str] = (),
    at_least: Sequence[str] = (),
    method: str | None = None,
    judge: str | None = None,
    junit: Path | str | None = None,
    display: Display = Display(),
) -> GateResult:
    """Return whether a method of a run keeps its floors, and write the results as JUnit XML.

    >>> from tempfile import mkdtemp
    >>> from derta.demo.run import write_example
    >>> from derta.pipeline.run import run
    >>> recipe = write_example(Path(mkdtemp()))
    >>> summary = run(recipe, out=recipe.parent / "run")
    >>> gate(recipe.parent / "run", at_most=["attack_not_refused=1"]).passed
    True

    Args:
        sources: Folders of runs, as for `derta.pipeline.frontier.frontier`.
        at_most: Floors `NAME=LIMIT` or `NAME=LIMIT@METHOD` on the upper end of an interval; see docs/gate.md.
        at_least: Floors on the lower end.
        method: The judged method; by default the one that the run recommends.
        judge: The judge of attack success; by default the first that measures harm.
        junit: Path of the JUnit file.
        display: Shows which method is judged by default.

    Raises:
        RecipeError: a floor is not valid, or there is none.
        RunError: a folder is no finished run, or no model has the name of the method.
        DataError: a measure was not computed, or a set or a method of a floor is unknown.
    """
    floors = [*(parse_floor(one, "max") for one in at_most), *(parse_floor(one, "min") for one in at_least)]
    if not floors:
        raise RecipeError("gate: expected a floor such as --max attack_success=0.05, got none")
    evaluated = read_evaluated(sources)
    baseline = evaluated.baseline or evaluated.outcomes[0].method
    chosen = _method(evaluated, method, baseline=baseline, display=display)
    judged = Judged(identified(evaluated.outcomes), evaluated.places, evaluated.incomparable)
    results = [judge_floor(floor, judged, method=chosen, baseline=baseline, judge=judge) for floor in floors]
    result = GateResult(chosen, baseline, results)
    if junit is not None:
        cases = [JUnitCase(one.floor, floor_line(one), one.passed) for one in results]
        write_junit(Path(junit), cases, suite="derta gate", group=chosen)
    return result


def _method(evaluated: Evaluated, method: str | None, *, baseline: str, display: Display) -> str:
    """Return the judged method: by default the recommended one, which a line names if there are others."""
    names = list(dict.fromkeys(one.method for one in evaluated.outcomes))
    if method is not None and method not in names:
        raise RunError(f"--method: no method {method!r} in this run; {did_you_mean(method, names)}")
    if method is not None:
        return method
    tuned = list(dict.fromkeys(one.method for one in evaluated.outcomes if one.fine_tuning is None))
    chosen = evaluated.recommended or recommended_method(tuned, baseline=baseline)
    if len(tuned) > 1:
        display.logger.info("gate: %s is judged, the recommended method; --method names another", chosen)
    return chosen
