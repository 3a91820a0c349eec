"""What a path of a command is: a run, the folder of one of its models, or a file. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path

from derta.errors import RunError
from derta.records import REFUSAL_WORDS

CONTENTS, REPLIES = "run.json", "replies.jsonl"


def is_run(path: Path) -> bool:
    """Return whether a folder is a run, or has runs of several seeds."""
    return any(next(path.glob(pattern), None) for pattern in (CONTENTS, f"*/{CONTENTS}", f"*/run/{CONTENTS}"))


def replies_of(path: Path) -> Path:
    """Return the replies of the folder of a run's model; another path is returned as it is.

    Raises:
        RunError: the folder is a run.
    """
    if (path / REPLIES).is_file():
        return path / REPLIES
    if is_run(path):
        models = sorted(one.parent.name for one in path.glob(f"*/{REPLIES}"))
        raise RunError(
            f"{path}: expected one model's folder or file of replies, got a run; name one of {', '.join(models)}"
        )
    return path


def words_of_run(path: Path) -> tuple[str, ...]:
    """Return the refusal words of the run that a path is, or is in; the paper's outside a run."""
    folders = [path, *path.resolve().parents[:2]]
    found = next((one for one in folders if (one / CONTENTS).is_file()), None)
    if found is None:
        return REFUSAL_WORDS
    from derta.pipeline.contents import read_contents

    return read_contents(found).refusal_words
