"""`run.json`: the contents of a run that its report needs and the other files do not hold.

It is written before the first training step, with the models, the judges of each evaluation and the comparisons.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from derta.config import EvaluationSection, SectionKey
from derta.errors import RunError
from derta.files import parse_record, write_text
from derta.pipeline.run_paths import CONTENTS
from derta.records import NAME, REFUSAL_WORDS, Measure, Record, Suite


class ModelEntry(Record):
    """Entry of a model in `run.json`: its label in the report, its seed, and the name of its folder in the run's.

    `fine_tuning` is the name of the attack on the model by fine-tuning, in its label; None for the model of a method.
    `own_format` marks another model of the recipe (`methods: [{name: ..., path: ...}]`), with its own chat template.
    `refusal_threshold` is the threshold of decoding (`run_threshold.threshold_identity`); None without one.
    """

    label: str
    seed: int
    folder: str = Field(pattern=r"^[\w.+-]*[\w+-][\w.+-]*$")
    fine_tuning: str | None = None
    own_format: bool = False
    refusal_threshold: str | None = None


class SectionJudges(Record):
    """Judges of an evaluation, its samples per prompt, and whether it is in the means, by its key.

    None matches any value that has no section.
    """

    suite: Suite | None
    attack: str | None
    name: str | None
    judges: tuple[str, ...]
    samples: Annotated[int, Field(ge=1, exclude_if=lambda count: count == 1)] = 1
    in_means: bool = True


class RunContents(Record):
    """Contents of `run.json`: the models in order, the judges, the comparisons and the notes.

    `baseline` and `recommended` are the methods of the report's verdict; None in a folder of an older version.
    """

    title: str
    models: tuple[ModelEntry, ...]
    measures: dict[str, Measure]
    sections: tuple[SectionJudges, ...]
    questions: dict[str, tuple[tuple[str, str], ...]]
    notes: tuple[str, ...]
    refusal_words: tuple[str, ...] = REFUSAL_WORDS
    baseline: str | None = None
    recommended: str | None = None

    @field_validator("measures")
    @classmethod
    def _check_measures(cls, measures: dict[str, Measure]) -> dict[str, Measure]:
        if wrong := [judge for judge in measures if not NAME.fullmatch(judge)]:
            raise ValueError(f"expected names of judges, got {wrong[0]!r:.80}")
        return measures

    @property
    def judges(self) -> dict[SectionKey, tuple[str, ...]]:
        """Names of the judges of each evaluation, by its key."""
        return {(one.suite, one.attack, one.name): one.judges for one in self.sections}

    @property
    def samples(self) -> dict[SectionKey, int]:
        """Number of samples for each prompt of an evaluation, by its key."""
        return {(one.suite, one.attack, one.name): one.samples for one in self.sections}

    @property
    def outside(self) -> frozenset[SectionKey]:
        """Keys of the evaluations outside the means."""
        return frozenset((one.suite, one.attack, one.name) for one in self.sections if not one.in_means)


def section_judges(section: EvaluationSection, *, samples: int = 1) -> SectionJudges:
    """Return an evaluation's key, judges, samples and place in the means in the format of `run.json`."""
    suite, attack, name = section.key
    values = {"suite": suite, "attack": attack, "name": name, "judges": section.judge_names, "samples": samples}
    return SectionJudges.model_validate(values | {"in_means": section.in_means})


def write_contents(folder: Path, contents: RunContents) -> None:
    """Write a run's `run.json`."""
    write_text(folder / CONTENTS, contents.model_dump_json(indent=2) + "\n")


def read_contents(folder: Path) -> RunContents:
    """Load a run's `run.json`.

    Raises:
        RunError: the folder is no run, or the file is not valid.
    """
    path = folder / CONTENTS
    try:
        return parse_record(RunContents, json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except FileNotFoundError as error:
        raise RunError(f"{folder}: expected a run's folder with a {CONTENTS}, found none; check the path") from error
    except (OSError, ValueError) as error:  # a DataError is a ValueError
        raise RunError(f"{path}: expected an output of `derta run`, got another file; check the path") from error
