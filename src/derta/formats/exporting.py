"""Files of other projects' formats, from a run's folder, a file of replies, or cases in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, get_args

from derta.errors import DataError, did_you_mean
from derta.files import write_text
from derta.formats.cases import JudgedCase, read_judged_cases
from derta.formats.harmbench import completions
from derta.formats.inspect import write_log
from derta.formats.jailbreakbench import AttackType, artifact, read_behaviors


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of an export."""

    judges: tuple[str, ...]
    behaviors: Path | None
    attack_type: AttackType | None


class Format(NamedTuple):
    """The writer of a format, the ending of its files, and whether it tells the behaviours and the attack's type."""

    write: Callable[[Path, Sequence[JudgedCase], str, ExportOptions], None]
    suffix: str
    has_attack_fields: bool = False


def export(
    source: str | Path | Sequence[JudgedCase],
    out: str | Path,
    *,
    format: str,
    judges: Sequence[str] = (),
    model: str | None = None,
    cell: str | None = None,
    prompts: Path | None = None,
    behaviors: Path | None = None,
    attack_type: str | None = None,
) -> list[Path]:
    """Write replies and verdicts in another project's format.

    >>> from tempfile import mkdtemp
    >>> from derta.records import Prompt, Reply
    >>> prompt = Prompt(id="1", request_id="tea", request="How?", attack="direct", mode="raw", text="How?")
    >>> case = JudgedCase(prompt, Reply(prompt_id="1", text="Boil water."), {})
    >>> [path] = export([case], Path(mkdtemp()) / "mine.json", format="harmbench")
    >>> json.loads(path.read_text())
    {'tea': [{'test_case': 'How?', 'generation': 'Boil water.', 'attack': 'direct'}]}

    Args:
        source: a run's folder, a file of replies with verdicts beside it, or cases.
        out: the file; for a run's folder the folder, in which each model gets a file.
        format: a key of `FORMATS`.
        judges: the judges whose verdicts go along; by default all there are.
        model: the name of the model in the file.
        cell: the cell whose replies are kept, such as `prefill@50%`; by default all.
        prompts: the prompts of a file of replies, if they are not beside it.
        behaviors: JailbreakBench's file of behaviours.
        attack_type: JailbreakBench's type of the attack.

    Returns:
        The files that were written.

    Raises:
        DataError: an unknown format, no replies, or the format needs what is missing or has no place for what is given.
    """
    if format not in FORMATS:
        raise DataError(f"format: unknown {format!r}; {did_you_mean(format, FORMATS)}")
    entry, options = FORMATS[format], ExportOptions(tuple(judges), behaviors, check_attack_type(attack_type))
    if not entry.has_attack_fields and (behaviors or attack_type):
        raise DataError(f"format {format}: has no place for behaviors and attack_type (--attack-type); leave them out")
    out = Path(out)
    if not isinstance(source, str | Path):
        entry.write(out, source, model or out.stem, options)
        return [out]
    source, written = Path(source), list[Path]()
    for file, path in _files(source, out, entry.suffix):
        cases = read_judged_cases(file, judges=judges, prompts=prompts, cell=cell)
        entry.write(path, cases, model or file.parent.name or file.stem, options)
        written.append(path)
    return written


def _files(source: Path, out: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Each file of replies with the file that it becomes."""
    if not source.is_dir():
        return [(source, out)]
    files = sorted(source.glob("*/replies.jsonl")) or sorted(source.glob("replies.jsonl"))
    if not files:
        raise DataError(f"{source}: expected a run's folder, found no replies.jsonl in it; give the file of replies")
    return [(file, out / f"{file.parent.name}{suffix}") for file in files]


def check_attack_type(text: str | None) -> AttackType | None:
    """An attack type as JailbreakBench calls it.

    Raises:
        DataError: it has no such type.
    """
    known: tuple[AttackType, ...] = get_args(AttackType)
    if text is None:
        return None
    for one in known:
        if one == text:
            return one
    raise DataError(f"attack_type: unknown {text!r}; {did_you_mean(text, known)}")


def _one_judge(options: ExportOptions) -> str | None:
    if len(options.judges) > 1:
        raise DataError(f"judges: this format has room for one judge, got {', '.join(options.judges)}; name one")
    return options.judges[0] if options.judges else None


def _write_harmbench(path: Path, cases: Sequence[JudgedCase], _model: str, options: ExportOptions) -> None:
    _write_json(path, completions(cases, judge=_one_judge(options)))


def _write_jailbreakbench(path: Path, cases: Sequence[JudgedCase], model: str, options: ExportOptions) -> None:
    judge = _one_judge(options)
    if judge is None or options.behaviors is None or options.attack_type is None:
        raise DataError(
            "--format jailbreakbench: expected --judge, --behaviors and --attack-type; an artifact says them"
        )
    behaviors, today = read_behaviors(options.behaviors), datetime.now(UTC).date()
    made = artifact(cases, behaviors=behaviors, model=model, attack_type=options.attack_type, judge=judge, today=today)
    _write_json(path, made)


def _write_inspect(path: Path, cases: Sequence[JudgedCase], model: str, _options: ExportOptions) -> None:
    judges = list(dict.fromkeys(judge for case in cases for judge in case.verdicts))
    write_log(path, cases, model=model, judges=judges, now=datetime.now(UTC))


def _write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


FORMATS: dict[str, Format] = {
    "harmbench": Format(_write_harmbench, ".json"),
    "jailbreakbench": Format(_write_jailbreakbench, ".json", has_attack_fields=True),
    "inspect": Format(_write_inspect, ".eval"),
}
