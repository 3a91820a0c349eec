"""Data sets by name: where each is, how its rows are read, its licence, and who may fetch it.

The facts are those of the sets' own pages (docs/datasets.md). A licence here is no legal advice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from derta.errors import DataError, did_you_mean


class NamedSet(NamedTuple):
    """A public set of requests that a recipe names: `requests: {name: simple_safety_tests}`.

    Attributes:
        description: What its rows are.
        rows: Number of rows that are read, as its page or paper gives it.
        suite: Suite of an evaluation that the set is for.
        licence: Licence of the data as its page states it; None: it states none.
        home: Address of the set.
        path: Hub id, or a file of a hub dataset (`org/name:file`); None: the set has to be downloaded.
        format: Name of the format of its rows; `auto` where the copies of the set differ in their columns.
        split: Split of the hub dataset.
        config: Configuration of the hub dataset.
        gated: Whether its page asks for consent before the hub copy can be loaded.
    """

    description: str
    rows: int
    suite: str
    licence: str | None
    home: str
    path: str | None = None
    format: str = "auto"
    split: str = "train"
    config: str | None = None
    gated: bool = False


_HF = "https://huggingface.co/datasets/"
_BBQ_SPLITS = (
    "age",
    "disability_status",
    "gender_identity",
    "nationality",
    "physical_appearance",
    "race_ethnicity",
    "race_x_gender",
    "race_x_ses",
    "religion",
    "ses",
    "sexual_orientation",
)


def _harmbench(config: str, rows: int, what: str, format: str = "auto") -> NamedSet:
    home = "https://github.com/centerforaisafety/HarmBench"
    return NamedSet(
        f"HarmBench: {what}.", rows, "attack", "MIT", home, "walledai/HarmBench", format, config=config, gated=True
    )


def _jailbreakbench(split: str, suite: str) -> NamedSet:
    path = "JailbreakBench/JBB-Behaviors"
    text = f"JailbreakBench: {split} behaviours."
    return NamedSet(text, 100, suite, "MIT", _HF + path, path, "jailbreakbench", split, "behaviors")


def _xstest(kind: str, rows: int, suite: str) -> NamedSet:
    path = "Paul/XSTest"
    return NamedSet(f"XSTest: {kind} prompts.", rows, suite, "CC-BY-4.0", _HF + path, path, f"xstest_{kind}")


def _or_bench(config: str, rows: int, suite: str, what: str) -> NamedSet:
    path = "bench-llm/or-bench"
    return NamedSet(f"OR-Bench: {what}.", rows, suite, "CC-BY-4.0", _HF + path, path, "prompt", config=config)


NAMED: Mapping[str, NamedSet] = {
    "simple_safety_tests": NamedSet(
        "SimpleSafetyTests: requests that no model should fulfil.",
        100,
        "attack",
        "CC-BY-2.0",
        _HF + "Bertievidgen/SimpleSafetyTests",
        "Bertievidgen/SimpleSafetyTests",
        "simple_safety_tests",
        "test",
    ),
    "harmbench": _harmbench("standard", 200, "standard behaviours (400 of all kinds in its own CSV file)"),
    "harmbench_contextual": _harmbench("contextual", 100, "behaviours with a context", "harmbench_contextual"),
    "harmbench_copyright": _harmbench("copyright", 100, "requests for copyrighted text"),
    "jailbreakbench": _jailbreakbench("harmful", "attack"),
    "jailbreakbench_benign": _jailbreakbench("benign", "over_refusal"),
    "strongreject": NamedSet(
        "StrongREJECT: forbidden prompts.",
        313,
        "attack",
        "MIT",
        "https://github.com/alexandrasouly/strongreject",
        "walledai/StrongREJECT",
        gated=True,
    ),
    "sorry_bench": NamedSet(
        "SORRY-Bench (2025-03): unsafe instructions of 44 categories, in their base style.",
        440,
        "attack",
        "SORRY-Bench licence agreement",
        _HF + "sorry-bench/sorry-bench-202503",
        "sorry-bench/sorry-bench-202503",
        "sorry_bench_base",
        gated=True,
    ),
    "xstest_safe": _xstest("safe", 250, "over_refusal"),
    "xstest_unsafe": _xstest("unsafe", 200, "attack"),
    "or_bench_80k": _or_bench("or-bench-80k", 80_359, "over_refusal", "benign prompts that look harmful"),
    "or_bench_hard": _or_bench("or-bench-hard-1k", 1_319, "over_refusal", "the benign prompts most often refused"),
    "or_bench_toxic": _or_bench("or-bench-toxic", 655, "attack", "toxic prompts"),
    "anthropic_red_team": NamedSet(
        "AnthropicRedTeam: the first turn of red-team conversations.",
        38_961,
        "attack",
        "MIT",
        _HF + "Anthropic/hh-rlhf",
        "Anthropic/hh-rlhf:red-team-attempts/red_team_attempts.jsonl.gz",
        "anthropic_red_team",
    ),
    "bbq": NamedSet(
        "BBQ: questions with three options on social bias, with ambiguous and unambiguous contexts.",
        58_492,
        "helpfulness",
        "CC-BY-4.0",
        "https://github.com/nyu-mll/BBQ",
        "Elfsong/BBQ",
        "bbq",
        "+".join(_BBQ_SPLITS),
    ),
    "cosafe": NamedSet(
        "CoSafe: conversations of several turns whose last one refers to what is harmful.",
        1_400,
        "attack",
        None,
        "https://github.com/ErxinYu/CoSafe-Dataset",
        format="conversations",
    ),
}
"""The data sets by name."""


def named_set(name: str) -> NamedSet:
    """Return the data set of a name.

    >>> named_set("strongreject").licence
    'MIT'

    Raises:
        DataError: There is none; a set with several subsets is named with one of them.
    """
    if name in NAMED:
        return NAMED[name]
    subsets = [one for one in NAMED if one.startswith(f"{name}_")]
    hint = f"name one of its subsets: {', '.join(subsets)}" if subsets else did_you_mean(name, NAMED)
    raise DataError(f"expected the name of a data set (`derta list datasets`), got {name!r:.60}; {hint}")


def source_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a data source with those that its `name` stands for; keys that are given stay as they are.

    With a `path`, such as that of a local copy, only the format comes from the name.

    >>> source_values({"name": "xstest_safe", "path": "mine.csv"})
    {'format': 'xstest_safe', 'name': 'xstest_safe', 'path': 'mine.csv'}
    >>> source_values({"name": "or_bench_hard", "limit": 5})["config"]
    'or-bench-hard-1k'

    Raises:
        DataError: No data set has the name, or it has no copy on the hub and no `path` is given.
    """
    name = values.get("name")
    if not isinstance(name, str):
        return dict(values)
    found = named_set(name)
    if values.get("path") is not None:
        return {"format": found.format, **values}
    if found.path is None:
        raise DataError(
            f"{name}: expected the `path` of a local copy, because the set is on no hub; download it from {found.home}"
        )
    place = {"path": found.path, "format": found.format, "split": found.split, "config": found.config}
    return {**place, **values}


def licence_note(name: str) -> str:
    """Return a sentence with the licence of a data set, for the notes of a run.

    >>> licence_note("strongreject")
    'Data set strongreject: MIT, https://github.com/alexandrasouly/strongreject.'
    """
    found = named_set(name)
    return f"Data set {name}: {found.licence or 'its page states no licence'}, {found.home}."


def access_hint(name: str) -> str:
    """Return what to do if the hub copy of a data set cannot be loaded.

    >>> access_hint("strongreject")[:60]
    'accept the terms on its page, log in (`hf auth login`), or g'
    """
    copy = f"give the `path` of a local copy ({named_set(name).home})"
    return (
        f"accept the terms on its page, log in (`hf auth login`), or {copy}" if named_set(name).gated else f"or {copy}"
    )
