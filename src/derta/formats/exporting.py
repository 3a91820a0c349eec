"""Export of replies and verdicts from a run folder, a file of replies, or cases in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, get_args

from derta.errors import DataError, did_you_mean
from derta.files import write_text
from derta.formats.cases import JudgedCase, case_files, read_judged_cases
from derta.formats.harmbench import completions
from derta.formats.inspect import write_log
from derta.formats.jailbreakbench import AttackType, artifact, read_behaviors
from derta.locks import check_output


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of an export."""

    judges: tuple[str, ...]
    behaviors: Path | None
    attack_type: AttackType | None


class Format(NamedTuple):
    """An output format: its writer, its file suffix, and whether it has the options `behaviors` and `attack_type`."""

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
    """Export replies and verdicts in the format of another project.

    >>> from tempfile import mkdtemp
    >>> from derta.records import Prompt, Reply
    >>> prompt = Prompt(id="1", request_id="tea", request="How?", attack="direct", mode="raw", text="How?")
    >>> case = JudgedCase(prompt, Reply(prompt_id="1", text="Boil water."), {})
    >>> [path] = export([case], Path(mkdtemp()) / "mine.json", format="harmbench")
    >>> json.loads(path.read_text())
    {'tea': [{'test_case': 'How?', 'generation': 'Boil water.', 'attack': 'direct'}]}

    Args:
        source: A run folder, a file of replies with verdicts in its folder, or cases.
        out: The output file; for a run folder the output folder, with one file per model.
        format: A key of `FORMATS`.
        judges: Names of the judges whose verdicts are exported; by default all with verdicts.
        model: Name of the model in the output; by default the name of its folder.
        cell: Export only the replies of this cell, such as `prefill@50%`; by default all.
        prompts: The file of prompts of a file of replies, if it is not in the same folder.
        behaviors: JailbreakBench's file of behaviours, an option of the format `jailbreakbench`.
        attack_type: JailbreakBench's type of the attack, an option of the format `jailbreakbench`.

    Returns:
        The paths of the output files.

    Raises:
        DataError: an unknown format, no replies, a missing option of the format, an option of another format, or
            verdicts on replies that have changed since.
        RunError: an output file is an input too.
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
        check_output(path, [*case_files(file, prompts=prompts), behaviors])
        cases = read_judged_cases(file, judges=judges, prompts=prompts, cell=cell)
        entry.write(path, cases, model or file.parent.name or file.stem, options)
        written.append(path)
    return written


def _files(source: Path, out: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Return pairs of a file of replies and its output file."""
    if not source.is_dir():
        return [(source, out)]
    files = sorted(source.glob("*/replies.jsonl")) or sorted(source.glob("replies.jsonl"))
    if not files:
        raise DataError(f"{source}: expected a run folder, found no replies.jsonl in it; pass the file of replies")
    return [(file, out / f"{file.parent.name}{suffix}") for file in files]


def check_attack_type(text: str | None) -> AttackType | None:
    """Validate an attack type of JailbreakBench.

    Raises:
        DataError: JailbreakBench has no such type.
    """
    attack_types: tuple[AttackType, ...] = get_args(AttackType)
    if text is None:
        return None
    for attack_type in attack_types:
        if attack_type == text:
            return attack_type
    raise DataError(f"attack_type: unknown {text!r}; {did_you_mean(text, attack_types)}")


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
            "--format jailbreakbench: expected --judge, --behaviors and --attack-type; an artifact contains them"
        )
    behaviors, today = read_behaviors(options.behaviors), datetime.now(UTC).date()
    output = artifact(
        cases, behaviors=behaviors, model=model, attack_type=options.attack_type, judge=judge, today=today
    )
    _write_json(path, output)


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
