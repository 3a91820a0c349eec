"""Rates of a file of replies, of all and by model and cell, counted while the file is read."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from derta.metrics.kinds import empty_note, is_empty
from derta.metrics.rates import outcome_of, unit_of
from derta.metrics.samples import ANY, any_of
from derta.protocols import Case, Display, Judge
from derta.records import ReplyClass, Verdict
from derta.results import Cell, CellSuite, Place, cell_of, place_of
from derta.stats import Outcome, Rate, rate_of_clusters, rate_of_counts, rate_over_seeds

_MOST_REASONS = 1000
_MOST_SINGLE = 100_000
"""Number of prompts with one reply each from which on later ones are taken to have one, too; it bounds the memory."""
Group = tuple[str, Place]
"""A model, empty if it is unknown, and the attack or dataset of a prompt."""


class GroupRates(NamedTuple):
    """Rate of a group of replies, with that of malformed refusals if the judge detects them, and of empty replies.

    `any_attempt` is the share of prompts with a harmful reply among several, in a file that has several.
    """

    cell: Cell
    malformed: Cell | None = None
    empty: Cell | None = None
    any_attempt: Cell | None = None

    @property
    def cells(self) -> list[Cell]:
        """The rates that there are."""
        return [cell for cell in self if cell is not None]


class FileRates(NamedTuple):
    """Rates of a file: of all replies, and of each model and cell if there are several.

    There is no total of attacks and harmless requests together, unless they are pooled on purpose: one number of both
    is neither an attack success rate nor one of over-refusal.
    """

    total: GroupRates | None
    groups: list[GroupRates]


@dataclass(slots=True)
class _Counts:
    outcomes: Counter[Outcome] = field(default_factory=Counter[Outcome])
    classes: Counter[ReplyClass] = field(default_factory=Counter[ReplyClass])
    empty: int = 0

    def __add__(self, other: _Counts) -> _Counts:
        classes = Counter(self.classes)
        classes.update(other.classes)  # `+` would drop classes whose replies are all unscored
        return _Counts(self.outcomes + other.outcomes, classes, self.empty + other.empty)


class _Attempts:
    """Outcomes of each unit (`unit_of`), counted as long as there may be several for one.

    A file with one reply for each of many prompts needs no counts by prompt.
    """

    def __init__(self) -> None:
        self.several = False
        self._counts: dict[tuple[Group, str], Counter[Outcome]] | None = {}

    def add(self, group: Group, unit: str, outcome: Outcome) -> None:
        """Count an outcome."""
        if self._counts is None:
            return
        counts = self._counts.setdefault((group, unit), Counter())
        counts[outcome] += 1
        self.several |= counts.total() > 1
        if len(self._counts) > _MOST_SINGLE and not self.several:
            self._counts = None

    def of(self, groups: Container[Group]) -> list[Counter[Outcome]]:
        """Return the outcomes of each unit of some groups; none if no unit of the file has several."""
        counts = self._counts if self.several and self._counts is not None else {}
        return [outcomes for (group, _), outcomes in counts.items() if group in groups]


class FileCounts:
    """Counts of a file's verdicts; neither its replies nor its verdicts are held.

    Args:
        judge: The judge of the verdicts.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._groups: dict[Group, _Counts] = {}
        self._attempts = _Attempts()
        self._read: deque[tuple[Group, str, bool]] = deque()  # of cases without a verdict yet: unit, whether empty
        self._reasons: Counter[str] = Counter()  # of the unscored replies
        self._first_missing = ""

    def reading(self, cases: Iterable[Case]) -> Iterator[Case]:
        """Yield the cases, which the judge then judges in their order."""
        for case in cases:
            model = (case.reply.producer or {}).get("model", "") if case.prompt.foreign else ""
            self._read.append(((model, place_of(case.prompt)), unit_of(case.prompt), is_empty(case.reply)))
            yield case

    def add(self, verdict: Verdict) -> None:
        """Count the verdict on the first case that has none yet."""
        group, unit, empty = self._read.popleft()
        counts = self._groups.setdefault(group, _Counts())
        outcome = outcome_of(verdict, self._judge.measures)
        counts.outcomes[outcome] += 1
        self._attempts.add(group, unit, outcome)
        counts.empty += empty
        if verdict.reply_class not in (None, "empty"):
            counts.classes[verdict.reply_class] += verdict.outcome(self._judge.measures) is not None
        if outcome is None and len(self._reasons) < _MOST_REASONS:
            self._reasons[f"{verdict.reason:.200}"] += 1
        if outcome == "unanswered" and not self._first_missing:
            self._first_missing = f"{verdict.prompt_id!r}: {verdict.reason:.200}"

    def warn(self, path: Path, display: Display) -> None:
        """Log what the rates do not say: unanswered prompts, empty replies, and a file without any verdict."""
        total = sum(self._groups.values(), _Counts())
        outcomes, unanswered = total.outcomes, total.outcomes["unanswered"]
        if unanswered:
            display.logger.warning(
                "%s: %d of %d prompts are unanswered and have no verdict (%s)",
                path,
                unanswered,
                outcomes.total(),
                self._first_missing,
            )
        answered = outcomes.total() - unanswered
        if note := empty_note(str(path), share=total.empty / max(1, answered), total=answered):
            display.logger.warning("%s", note)
        if self._reasons and not outcomes[True] + outcomes[False]:
            [(reason, count)] = self._reasons.most_common(1)
            display.logger.warning("%s: no reply has a verdict; %d of %d: %s", path, count, outcomes.total(), reason)

    def rates(self, name: str, *, pool: bool) -> FileRates:
        """Return the rates; `name` is that of the total, and `pool` pools attacks and harmless requests."""
        suites: list[CellSuite] = list(dict.fromkeys(place.suite for _, place in self._groups)) or ["attack"]
        suite: CellSuite = suites[0] if len(suites) == 1 else "analysis"
        place = Place("helpfulness" if suite == "attack" and self._judge.measures == "correct" else suite, name)
        total = self._rates(sum(self._groups.values(), _Counts()), place, self._attempts.of(self._groups))
        groups = [
            self._rates(counts, place, self._attempts.of([(model, place)]), model)
            for (model, place), counts in self._groups.items()
        ]
        return FileRates(total if pool or len(suites) == 1 else None, groups if len(groups) > 1 else [])

    def _rates(
        self, counts: _Counts, place: Place, attempts: Sequence[Counter[Outcome]], model: str = ""
    ) -> GroupRates:
        outcomes, judge = counts.outcomes, self._judge
        missing = {"unscored": outcomes[None], "unanswered": outcomes["unanswered"]}
        scored = outcomes[True] + outcomes[False]

        def cell(rate: Rate, *, judge_name: str, measure: str) -> Cell:
            return cell_of(rate, place=place, method=model, seed=None, judge=judge_name, measure=measure)

        rate = rate_of_counts(outcomes[True], scored=scored, **missing)
        if attempts:
            rate = rate_of_clusters([(one[True], one[True] + one[False]) for one in attempts], **missing)
        any_attempt = rate_over_seeds([[any_of([*one.elements()])] for one in attempts])
        malformed = rate_of_counts(counts.classes["malformed"], scored=scored, **missing)
        empty = rate_of_counts(counts.empty, scored=scored + outcomes[None], unanswered=outcomes["unanswered"])
        has_classes = judge.measures == "refused" and bool(counts.classes)
        return GroupRates(
            cell(rate, judge_name=judge.name, measure=judge.measures),
            cell(malformed, judge_name=judge.name, measure="malformed") if has_classes else None,
            cell(empty, judge_name="none", measure="empty") if counts.empty else None,
            cell(any_attempt, judge_name=judge.name, measure=ANY) if attempts and judge.measures == "harmful" else None,
        )
