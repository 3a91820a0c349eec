"""The authors' folder of outputs as it is: files of any names, recognised by their content and by their paths."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from derta.errors import DataError
from derta.paper.figures import Figure, OutputKind, Results
from derta.paper.outputs import PromptTexts
from derta.sources import read_rows
from derta.sources.compression import plain_name

_NAME = re.compile(r"[^a-z0-9]+")
_MIN_INSIDE = 5
"""Length from which a spelling may be inside a longer word; a shorter one is a word of its own, or starts a name."""
_NUM_ROWS = 20
_SUFFIXES = (".json", ".jsonl")


class Origin(NamedTuple):
    """The task, model and method that a path names; None for what it does not name."""

    task: str | None
    model: str | None
    method: str | None


class Output(NamedTuple):
    """A file of replies, the figures that its rates are compared with, and its origin."""

    path: Path
    figures: tuple[Figure, ...]
    origin: Origin


class Tree(NamedTuple):
    """The outputs in a folder, the prompts and requests in it, and a message for each file that is neither."""

    outputs: list[Output]
    texts: PromptTexts
    skipped: list[str]


def read_tree(folder: Path, *, results: Results, without: Collection[Path] = ()) -> Tree:
    """Find the outputs in a folder and its subfolders, in the order of their paths, except the files of `without`.

    Files with a question in each row and no reply are the prompts and requests.
    """
    outputs: list[Output] = []
    prompts: list[str] = []
    skipped: list[str] = []
    paths = (
        path
        for path in sorted(folder.rglob("*"))
        if path not in without and plain_name(path).suffix in _SUFFIXES and path.is_file()
    )
    for path in paths:
        name = str(path.relative_to(folder))
        try:
            kind = _kind_of([row.value for row in islice(read_rows(path), _NUM_ROWS)])
        except DataError as error:
            skipped.append(f"{name}: skipped ({error})")
            continue
        if kind is None:
            skipped.append(f"{name}: no outputs of the paper; skipped")
        elif kind == "prompts":
            prompts += [row.value["question"] for row in read_rows(path) if isinstance(row.value["question"], str)]
        else:
            origin = origin_of(Path(folder.resolve().name, name), results)
            origin = origin._replace(task=origin.task or _task_of(path, kind))
            figures = tuple(_figures(name, kind, origin, results))
            if figures:
                outputs.append(Output(path, figures, origin))
            else:
                skipped.append(
                    f"{name}: no judge without a model rates {kind} of {origin.task or 'this task'}; skipped"
                )
    texts = [text for text in prompts if text.strip()]
    return Tree(outputs, PromptTexts(prompts=texts, requests=texts), skipped)


def _kind_of(rows: Sequence[Any]) -> OutputKind | Literal["prompts"] | None:
    """Return the kind of a file by its first rows: `prompts` for questions without replies, None for another file."""
    if all(isinstance(row, str) for row in rows):
        return "completions"
    if not all(isinstance(row, dict) and isinstance(row.get("question"), str) for row in rows):
        return None
    fields = [cast("dict[str, Any]", row) for row in rows]
    if not any("response" in row for row in fields):
        return "prompts"
    return "answers" if all(row.get("answer") for row in fields) else "attacks"


def origin_of(path: Path, results: Results) -> Origin:
    """Return what a path names: its last part first, then the folders; the method is not the first folder's name.

    >>> from derta.paper.figures import load_figures
    >>> origin_of(Path("DeRTa/LLaMA3-70B-Instruct/code_attack.json"), load_figures().results)
    Origin(task='code', model='llama3-70b-instruct', method=None)
    """
    parts = [path.with_suffix("").name, *(parent.name for parent in path.parents if parent.name)]
    tasks = {name: task.spellings for name, task in results.tasks.items()}
    return Origin(
        _first_named(parts, tasks), _first_named(parts, results.models), _first_named(parts[:-1], results.methods)
    )


def _first_named(parts: Sequence[str], spellings: Mapping[str, Sequence[str]]) -> str | None:
    for part in parts:
        words = _NAME.sub(" ", part.lower()).split()
        whole = "".join(words)
        for name, alternatives in spellings.items():
            if any(_names(spelling, words, whole) for spelling in alternatives):
                return name
    return None


def _names(spelling: str, words: Sequence[str], whole: str) -> bool:
    return spelling in words or (len(spelling) >= _MIN_INSIDE and spelling in whole)


def _figures(name: str, kind: OutputKind, origin: Origin, results: Results) -> Iterator[Figure]:
    if origin.task is None:
        return
    task = results.tasks[origin.task]
    if task.judge != "refusal" and (task.measures == ("correct",)) != (kind == "answers"):
        return
    paper = results.paper.get(origin.model or "", {}).get(origin.method or "none", {})
    for measure in task.measures:
        share = paper.get(f"{origin.task}.{measure}", paper.get(origin.task) if len(task.measures) == 1 else None)
        yield Figure(
            file=name,
            kind="harmless" if task.judge == "refusal" else kind,
            judge=task.judge,
            measure=measure,
            paper=share,
        )


def _task_of(path: Path, kind: OutputKind) -> str | None:
    """Return the task of a file whose path names none: CompletingAttack for texts, an unknown attack for replies."""
    return _task_of_answers(path) if kind == "answers" else "completing" if kind == "completions" else "attack"


def _task_of_answers(path: Path) -> str | None:
    """Return the task of a file with reference answers by their form: `#### 7` of GSM8K, a letter of MMLU."""
    answers = [str(row.value["answer"]).strip() for row in islice(read_rows(path), _NUM_ROWS)]
    if all("####" in answer for answer in answers):
        return "gsm8k"
    return "mmlu" if all(re.fullmatch(r"-?\(?[A-D]\)?", answer) for answer in answers) else None
