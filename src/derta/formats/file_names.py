"""Names of files for names of prompts and cells, which come from data and may be anything."""

from __future__ import annotations

import re

from derta.records import short_hash

_PATH_TRICK = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|\\|^\w:")
"""Parts of a path that are empty, `.` or `..`, backslashes, and a drive of Windows."""
_NOT_IN_NAMES = re.compile(r"[^\w@%+., -]")
_LONGEST = 100


def sample_id(prompt_id: str) -> str:
    """Return the id of a sample, which Inspect uses as a file name in its archive.

    It is the prompt's id. If that could be a path out of the folder to which the archive is extracted, its other
    characters are replaced and a hash is appended.

    >>> sample_id("prefill@50%:7"), sample_id("../../7")
    ('prefill@50%:7', '.._.._7-4d6d17f18882353d')
    """
    if prompt_id.isprintable() and not _PATH_TRICK.search(prompt_id):
        return prompt_id
    return _replaced(prompt_id)


def file_stem(name: str) -> str:
    """Return a file name without suffix for the name of a cell.

    >>> file_stem("prefill@50%"), file_stem("../x")
    ('prefill@50%', '.._x-c388c52125c33bd4')
    """
    if name.isprintable() and name.strip(". ") and len(name) <= _LONGEST and not _NOT_IN_NAMES.search(name):
        return name
    return _replaced(name)


def _replaced(name: str) -> str:
    return f"{_NOT_IN_NAMES.sub('_', name)[:_LONGEST]}-{short_hash(name)}"
