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
from derta.formats.file_names import file_stem
from derta.formats.harmbench import completions
from derta.formats.inspect import write_log
from derta.formats.jailbreakbench import AttackType, artifact, read_behaviors
from derta.formats.shards import is_sharded
from derta.locks import check_output


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of an export."""

    judges: tuple[str, ...]
    behaviors: Path | None
    attack_type: AttackType | None


class Format(NamedTuple):
    """An output format: its writer, its file suffix, and whether it has the options `behaviors` and `attack_type`.

    `one_cell`: a file has the replies of one cell, unless cells are pooled.
    """

    write: Callable[[Path, Sequence[JudgedCase], str, ExportOptions], None]
    suffix: str
    has_attack_fields: bool = False
    one_cell: bool = False


def export(
    source: str | Path | Sequence[JudgedCase],
    out: str | Path,
    *,
    format: str,
    judges: Sequence[str] = (),
    model: str | None = None,
    cell: str | None = None,
    pool: bool = False,
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
        source: A run folder, the folder of one of its models, a file of replies with verdicts in its folder, or cases.
        out: The output file; for a folder the output folder, which has a folder for each model and in it a file for
            each cell.
        format: A key of `FORMATS`.
        judges: Names of the judges whose verdicts are exported; by default all with verdicts.
        model: Name of the model in the output; by default the name of its folder.
        cell: Export only the replies of this cell, such as `prefill@50%`; by default all.
        pool: Write one file per model, with attacks and harmless requests together.
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
        cases = read_judged_cases(file, judges=judges, prompts=prompts, cell=cell)
        parts = {path: cases} if pool else _by_cell(cases, path, entry, source)
        inputs = [*case_files(file, prompts=prompts), behaviors]
        check_output(out, inputs)
        for target, part in parts.items():
            check_output(target, inputs)
            if target.parent.is_file():
                raise DataError(f"{target.parent}: expected a folder for a file of each cell, got a file; rename it")
            target.parent.mkdir(parents=True, exist_ok=True)
            entry.write(target, part, model or _model_of(file), options)
        written += parts
    return written


def _model_of(file: Path) -> str:
    """Return the name of the folder of a file of replies, or of a folder of shards."""
    return file.name if is_sharded(file) else file.parent.name or file.stem


def _by_cell(cases: Sequence[JudgedCase], path: Path, entry: Format, source: Path) -> dict[Path, Sequence[JudgedCase]]:
    """Return the cases of each output file: of a folder, and of an output without the format's suffix, by cell.

    Raises:
        DataError: one file would mix attacks and harmless requests, or cells in a format of one cell a file.
    """
    cells: dict[tuple[str, str], list[JudgedCase]] = {}
    for case in cases:
        cells.setdefault((case.prompt.suite, case.prompt.cell), []).append(case)
    is_file = is_sharded(source) or not source.is_dir()
    if len(cells) == 1 and is_file:
        return {path: cases}
    if is_file and path.suffix == entry.suffix:
        if entry.one_cell or len({suite for suite, _ in cells}) > 1:
            names = ", ".join(name for _, name in cells)
            raise DataError(
                f"{source}: has replies of {len(cells)} attacks and data sets ({names:.200}); pass a folder as --out "
                "for a file of each, or add --cell NAME or --pool"
            )
        return {path: cases}
    folder = path.with_suffix("") if path.suffix == entry.suffix else path
    names = [name for _, name in cells]
    stems = [file_stem(f"{name} ({suite})" if names.count(name) > 1 else name) for suite, name in cells]
    return {folder / f"{stem}{entry.suffix}": part for stem, part in zip(stems, cells.values(), strict=True)}


def _files(source: Path, out: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Return pairs of a file of replies and its output file."""
    if is_sharded(source) or not source.is_dir():
        return [(source, out)]
    files = sorted(source.glob("*/replies.jsonl")) or sorted(source.glob("replies.jsonl"))
    if not files:
        raise DataError(f"{source}: expected a run's folder or a model's, found no replies.jsonl in it; check the path")
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
    "inspect": Format(_write_inspect, ".eval", one_cell=True),
}
