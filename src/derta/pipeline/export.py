"""`derta export`: a run's replies and verdicts, or a file's, in the format of another project."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, get_args

from derta.data.fields import text_of
from derta.errors import DataError, did_you_mean
from derta.files import read_records, write_text
from derta.formats.harmbench import completions
from derta.formats.inspect import write_log
from derta.formats.jailbreakbench import AttackType, Behavior, artifact
from derta.formats.judged import Judged
from derta.formats.replies import read_cases
from derta.records import Verdict
from derta.sources import read_rows


class Wanted(NamedTuple):
    """What an export holds and says."""

    judges: tuple[str, ...]
    cell: str | None
    prompts_path: Path | None
    behaviors_path: Path | None
    attack_type: AttackType | None


def export(
    source: Path | str,
    out: Path | str,
    *,
    format: str,
    judges: Sequence[str] = (),
    cell: str | None = None,
    model: str | None = None,
    prompts: Path | None = None,
    behaviors: Path | None = None,
    attack_type: str | None = None,
) -> list[Path]:
    """Write a run's or a file's replies and verdicts in the format of another project.

    Args:
        source: A file of replies, or a run's folder.
        out: The file to write; of a run's folder, a folder with a file for each model.
        format: `harmbench`, `jailbreakbench` or `inspect`.
        judges: Whose verdicts are written; `inspect` takes all that there are if none is named.
        cell: Only the replies of this cell, such as `prefill@50%`.
        model: What the model is called there.
        prompts: The prompts of the replies, if not beside them.
        behaviors: JailbreakBench's CSV of behaviours, for its format.
        attack_type: What JailbreakBench calls the attack, for its format.

    Returns:
        The files written.

    Raises:
        DataError: an unknown format, no replies, or what the format needs is missing.
    """
    if format not in FORMATS:
        raise DataError(f"--format: unknown {format!r}; {did_you_mean(format, FORMATS)}")
    entry, source, out = FORMATS[format], Path(source), Path(out)
    wanted = Wanted(tuple(judges), cell, prompts, behaviors, check_attack_type(attack_type))
    if not source.is_dir():
        entry.write(out, read_judged(source, wanted=wanted), model or source.parent.name or source.stem, wanted)
        return [out]
    files = sorted(source.glob("*/replies.jsonl")) or sorted(source.glob("replies.jsonl"))
    if not files:
        raise DataError(f"{source}: expected a run's folder, found no replies.jsonl in it; give the file of replies")
    written = {out / f"{file.parent.name}{entry.suffix}": file for file in files}
    for path, file in written.items():
        entry.write(path, read_judged(file, wanted=wanted), model or file.parent.name, wanted)
    return list(written)


def check_attack_type(text: str | None) -> AttackType | None:
    """Return an attack type as JailbreakBench calls it.

    Raises:
        DataError: it has no such type.
    """
    known: tuple[AttackType, ...] = get_args(AttackType)
    if text is None:
        return None
    for one in known:
        if one == text:
            return one
    raise DataError(f"--attack-type: unknown {text!r}; {did_you_mean(text, known)}")


def read_judged(replies: Path, *, wanted: Wanted) -> list[Judged]:
    """The replies of a file with the verdicts beside it (`verdicts.JUDGE.jsonl`): the named judges', or all there are.

    Raises:
        DataError: a judge's verdicts are not there, or no reply belongs to the cell that is wanted.
    """
    found = {
        path.name.removeprefix("verdicts.").removesuffix(".jsonl"): path
        for path in sorted(replies.parent.glob("verdicts.*.jsonl"))
    }
    missing = [judge for judge in wanted.judges if judge not in found]
    if missing:
        raise DataError(
            f"{replies}: expected verdicts.{missing[0]}.jsonl beside it, found none; write it with "
            f"`derta judge {replies} --judge {missing[0]} --out {replies.parent / f'verdicts.{missing[0]}.jsonl'}`"
        )
    said = {
        judge: {verdict.key: verdict for verdict in read_records(path, Verdict)}
        for judge, path in found.items()
        if not wanted.judges or judge in wanted.judges
    }
    cases = [
        Judged(prompt, reply, {judge: verdicts[reply.key] for judge, verdicts in said.items() if reply.key in verdicts})
        for prompt, reply in read_cases(replies, prompts_path=wanted.prompts_path)
    ]
    kept = [case for case in cases if wanted.cell in {None, case.prompt.cell}]
    if not kept:
        cells = dict.fromkeys(case.prompt.cell for case in cases)
        raise DataError(f"{replies}: --cell: expected one of {', '.join(cells)}, got {wanted.cell!r}")
    return kept


def read_behaviors(path: Path) -> list[Behavior]:
    """JailbreakBench's behaviours file, with the numbers and names that our requests do not carry."""
    rows = list(read_rows(path))
    for row in rows:
        if not text_of(row, "Index").isdecimal():
            raise DataError(f"{row.where}: Index: expected a number, got {text_of(row, 'Index')!r}; mend the row")
    return [
        Behavior(int(text_of(row, "Index")), text_of(row, "Goal"), text_of(row, "Behavior"), text_of(row, "Category"))
        for row in rows
    ]


def _one_judge(wanted: Wanted) -> str | None:
    if len(wanted.judges) > 1:
        raise DataError(f"--judge: this format has room for one judge, got {', '.join(wanted.judges)}; name one")
    return wanted.judges[0] if wanted.judges else None


def _write_harmbench(path: Path, cases: Sequence[Judged], _model: str, wanted: Wanted) -> None:
    _write_json(path, completions(cases, judge=_one_judge(wanted)))


def _write_jailbreakbench(path: Path, cases: Sequence[Judged], model: str, wanted: Wanted) -> None:
    judge = _one_judge(wanted)
    if judge is None or wanted.behaviors_path is None or wanted.attack_type is None:
        raise DataError(
            "--format jailbreakbench: expected --judge, --behaviors and --attack-type; an artifact says them"
        )
    behaviors, today = read_behaviors(wanted.behaviors_path), datetime.now(UTC).date()
    made = artifact(cases, behaviors=behaviors, model=model, attack_type=wanted.attack_type, judge=judge, today=today)
    _write_json(path, made)


def _write_inspect(path: Path, cases: Sequence[Judged], model: str, _wanted: Wanted) -> None:
    judges = list(dict.fromkeys(judge for case in cases for judge in case.verdicts))
    write_log(path, cases, model=model, judges=judges, now=datetime.now(UTC))


def _write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class Format(NamedTuple):
    """How a format is written, and how its files end."""

    write: Callable[[Path, Sequence[Judged], str, Wanted], None]
    suffix: str


FORMATS: dict[str, Format] = {
    "harmbench": Format(_write_harmbench, ".json"),
    "jailbreakbench": Format(_write_jailbreakbench, ".json"),
    "inspect": Format(_write_inspect, ".eval"),
}
