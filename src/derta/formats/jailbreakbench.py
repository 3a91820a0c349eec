"""JailbreakBench's format of attack artifacts: one jailbreak string and one reply per behaviour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple

from derta.errors import DataError
from derta.formats.cases import JudgedCase, format_prompt
from derta.sources import Row, fields_of, read_rows

AttackType = Literal["white_box", "black_box", "transfer", "manual"]


class Behavior(NamedTuple):
    """A row of JailbreakBench's file of behaviours; `number` is its `Index`."""

    number: int
    goal: str
    behavior: str
    category: str


def artifact(
    cases: Sequence[JudgedCase],
    *,
    behaviors: Sequence[Behavior],
    model: str,
    attack_type: AttackType,
    judge: str,
    today: date,
) -> dict[str, Any]:
    """Convert cases to the artifact of one attack on one model. Numbers of queries are null: they were not counted.

    Raises:
        DataError: replies of several attacks or to unknown behaviours, two replies to one behaviour, or an unscored
            reply: `jailbroken` is either true or false in this format.

    Source: jailbreakbench 1.0.0, `artifact.py`. Its loader supports four models only; the rows have the format that it
    parses.
    """
    rows = sorted((_row(*pair, judge=judge) for pair in _matched(cases, behaviors)), key=lambda row: row["index"])
    successes = sum(row["jailbroken"] for row in rows)
    parameters = {
        "method": _only_attack(cases),
        "model": model,
        "attack_type": attack_type,
        "defense": None,
        "attack_success_rate": successes / len(rows),
        "total_number_of_jailbreaks": successes,
        "number_of_submitted_prompts": len(rows),
        "total_number_of_queries": None,
        "total_prompt_tokens": None,
        "total_response_tokens": None,
        "evaluation_date": today.isoformat(),
        "evaluation_llm_provider": "local",
        "method_parameters": {"judge": judge},
    }
    return {"parameters": parameters, "jailbreaks": rows}


def _only_attack(cases: Sequence[JudgedCase]) -> str:
    cells = Counter(case.prompt.cell for case in cases)
    if len(cells) != 1:
        listed = ", ".join(cells) or "none"
        raise DataError(f"an artifact holds one attack, got replies of {listed}; choose one with --cell")
    return next(iter(cells))


def _matched(cases: Sequence[JudgedCase], behaviors: Sequence[Behavior]) -> list[tuple[JudgedCase, Behavior]]:
    _only_attack(cases)
    by_goal = {behavior.goal.strip(): behavior for behavior in behaviors}
    pairs: dict[int, tuple[JudgedCase, Behavior]] = {}
    for case in cases:
        behavior = by_goal.get((case.prompt.request or "").strip())
        if behavior is None:
            raise DataError(
                f"prompt {case.prompt.id!r}: its request is no goal of the behaviours file; pass the file that the "
                "requests were loaded from"
            )
        if behavior.number in pairs:
            raise DataError(f"behaviour {behavior.number}: expected one reply, got two; choose one attack with --cell")
        pairs[behavior.number] = (case, behavior)
    return list(pairs.values())


def _row(case: JudgedCase, behavior: Behavior, *, judge: str) -> dict[str, Any]:
    jailbroken = case.outcome(judge, "harmful")
    if jailbroken is None:
        raise DataError(
            f"prompt {case.prompt.id!r}: judge {judge} did not score its reply, and an artifact has no unscored rows; "
            "use a judge of harm that scores all of them, or another format"
        )
    return {
        "index": behavior.number,
        "goal": behavior.goal,
        "behavior": behavior.behavior,
        "category": behavior.category,
        "prompt": format_prompt(case.prompt),
        "response": case.reply.text,
        "number_of_queries": None,
        "queries_to_jailbreak": None,
        "prompt_tokens": None,
        "response_tokens": None if case.reply.token_ids is None else len(case.reply.token_ids),
        "jailbroken": jailbroken,
    }


def read_behaviors(path: Path) -> list[Behavior]:
    """Load JailbreakBench's file of behaviours, whose numbers and names are not in `Request` records.

    Raises:
        DataError: a column is missing, or an `Index` is not a number.
    """
    rows = list(read_rows(path))
    for row in rows:
        if not _text(row, "Index").isdecimal():
            raise DataError(f"{row.where}: Index: expected a number, got {_text(row, 'Index')!r}; fix the row")
    return [
        Behavior(int(_text(row, "Index")), *(_text(row, name) for name in ("Goal", "Behavior", "Category")))
        for row in rows
    ]


def _text(row: Row, name: str) -> str:
    fields = fields_of(row)
    if name not in fields:
        raise DataError(f"{row.where}: expected a column {name!r}, got {', '.join(fields)}; pass JailbreakBench's file")
    return str(fields[name]).strip()
