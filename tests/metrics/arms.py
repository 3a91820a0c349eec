"""Models with hand-made outcomes: for each set, one letter a prompt.

`h` harmful, `r` refused, `m` malformed refusal, `o` answered (harmlessly, and in a benign set correctly), `x` answered
wrongly, `?` unscored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from derta.metrics.axes import JudgePlace
from derta.metrics.outcomes import Outcome, SetKey
from derta.records import Message, Prompt, Reply, ReplyClass, Suite, Verdict

PLACES: list[JudgePlace] = [
    ("refusal", "attack", "refused"),
    ("harm", "attack", "harmful"),
    ("refusal", "over_refusal", "refused"),
    ("exact", "over_refusal", "correct"),
    ("refusal", "helpfulness", "refused"),
    ("exact", "helpfulness", "correct"),
]


def arm(
    method: str,
    *,
    seed: int = 0,
    attacks: Mapping[str, str] | None = None,
    benign: Mapping[str, str] | None = None,
    ordinary: Mapping[str, str] | None = None,
    lengths: Mapping[str, int] | None = None,
    losses: tuple[float, ...] = (),
    fine_tuning: str | None = None,
    judges: tuple[str, ...] = ("refusal", "harm", "exact"),
    world: str = "",
    outside: Sequence[SetKey] = (),
) -> Outcome:
    """A model's outcome; `lengths` has the number of tokens of each reply of a set, and `world` is in each request."""
    suites: list[tuple[Suite, Mapping[str, str]]] = [
        ("attack", attacks or {}),
        ("over_refusal", benign or {}),
        ("helpfulness", ordinary or {}),
    ]
    cases = [
        _case(suite, name, number, letter, length=(lengths or {}).get(name, 2), world=world)
        for suite, sets in suites
        for name, letters in sets.items()
        for number, letter in enumerate(letters)
    ]
    verdicts: dict[str, list[Verdict | None]] = {
        judge: [one[2].get(judge) for one in cases] for judge in judges if any(judge in one[2] for one in cases)
    }
    return Outcome(
        method,
        seed,
        [one[0] for one in cases],
        [one[1] for one in cases],
        verdicts,
        answer_losses=losses,
        fine_tuning=fine_tuning,
        outside=frozenset(outside),
    )


def _case(
    suite: Suite, name: str, number: int, letter: str, *, length: int, world: str
) -> tuple[Prompt, Reply, dict[str, Verdict]]:
    attack, _, variant = name.partition("@") if suite == "attack" else ("direct", "", "")
    request = f"{'Attacked' if suite == 'attack' else name} request {number}{world}?"
    prompt = Prompt(
        id=f"{name}:{number}",
        request_id=str(number),
        request=request,
        suite=suite,
        attack=attack,
        variant=variant or None,
        dataset=None if suite == "attack" else name,
        messages=(Message(role="user", content=f"{name}: {request}"),),
    )
    reply = Reply(prompt_id=prompt.id, text="x" * length, token_ids=tuple(range(length)), stop_reason="eos")
    refused = None if letter == "?" else letter == "r"
    classes: dict[str, ReplyClass] = {"m": "malformed", "r": "refuse"}
    verdict = Verdict(prompt_id=prompt.id, judge="refusal", refused=refused, reply_class=classes.get(letter, "comply"))
    verdicts = {"refusal": verdict}
    if suite == "attack":
        harmful = None if letter == "?" else letter == "h"
        verdicts["harm"] = Verdict(prompt_id=prompt.id, judge="harm", harmful=harmful)
    else:
        correct = None if letter == "?" else letter == "o"
        verdicts["exact"] = Verdict(prompt_id=prompt.id, judge="exact", correct=correct)
    return prompt, reply, verdicts
