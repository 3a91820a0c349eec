"""Pairing of two files' replies to the same prompts: by prompt id, by content, or by the ids of their rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from derta.errors import DataError
from derta.protocols import Case
from derta.records import Prompt, ReplyKey, short_hash

Key = Callable[[Prompt], str | None]
_POSITION = re.compile(r"row-\d+", re.ASCII)
"""Request id of a row without an id: its position says nothing about its prompt."""


def content_key(prompt: Prompt) -> str | None:
    """Return a key of the request and the prompt as sent, equal for equal texts; None if both are unknown.

    >>> first = Prompt(id="row-0", request_id="row-0", request="Tea? ", foreign=True, attack="direct")
    >>> second = Prompt(id="9", request_id="9", request="Tea?", foreign=True, attack="direct")
    >>> content_key(first) == content_key(second)
    True
    """
    sent = [f"{message.role}\x1e{message.content.strip()}" for message in prompt.messages or ()]
    if prompt.text:
        sent = [prompt.text]
    if not (prompt.request or sent):
        return None
    return f"content-{short_hash((prompt.request or '').strip(), *sent, prompt.prefill or '')}"


def request_key(prompt: Prompt) -> str | None:
    """Return a key of the request alone; None if it is unknown."""
    return None if not prompt.request else f"request-{prompt.request.strip()}"


def _id_key(prompt: Prompt) -> str | None:
    return None if _POSITION.fullmatch(prompt.request_id) else f"id-{prompt.request_id}"


def pair_cases(
    files: Sequence[tuple[Path, Sequence[Case]]], *, key: Key = content_key
) -> tuple[list[dict[ReplyKey, Case]], Counter[Path]]:
    """Return each file's cases by a key that replies to the same prompt share, and the number of cases without one.

    Prompts of derta's own files are paired by id. If one of the files is another project's, its rows have positions
    for ids, so that `key` is used, and the ids of the rows if `key` has no value for a whole file. Several replies to
    one prompt are its samples, in the order of the file.

    Args:
        files: Paths and their cases.
        key: The key of a prompt in another project's file.

    Raises:
        DataError: A file has neither requests nor ids; its position in a file pairs no row with another.
    """
    if not any(case.prompt.foreign for _, cases in files for case in cases):
        return [{case.reply.key: case for case in cases} for _, cases in files], Counter()
    usable = next((one for one in (key, _id_key) if all(_has_key(cases, one) for _, cases in files)), None)
    if usable is None:
        path = next(path for path, cases in files if not _has_key(cases, key))
        raise DataError(
            f"{path}: expected rows with a request or an id, which pair them with those of the other file, got replies "
            "alone; add a column request or id, or pass a file of requests by --prompts"
        )
    unpaired: Counter[Path] = Counter()
    keyed: list[dict[ReplyKey, Case]] = []
    for path, cases in files:
        keyed.append({})
        samples: Counter[str] = Counter()
        for prompt, reply in cases:
            name = usable(prompt)
            if name is None:
                unpaired[path] += 1
                continue
            keyed[-1][name, samples[name]] = Case(prompt, reply)
            samples[name] += 1
    return keyed, unpaired


def keyed_case(key: ReplyKey, case: Case) -> Case:
    """Return a case whose prompt id and sample are those of its key."""
    prompt_id, sample = key
    return Case(
        case.prompt.model_copy(update={"id": prompt_id}),
        case.reply.model_copy(update={"prompt_id": prompt_id, "sample": sample}),
    )


def _has_key(cases: Sequence[Case], key: Key) -> bool:
    return any(key(case.prompt) is not None for case in cases)
