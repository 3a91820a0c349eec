"""Descriptions in docstrings: the first sentence, and the entries of a section such as `Args` or `Attributes`."""

from __future__ import annotations

import re
from inspect import getdoc

_ENTRY = re.compile(r"^ {4}(\w+): ?(.*)$")


def summary(of: object) -> str:
    """Return the first sentence of a docstring in one line; empty without one.

    >>> summary(documented)
    'Return the entries of a section of a docstring by name, each in one line.'
    """
    paragraph = " ".join((getdoc(of) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[\w`)\]])\. ", paragraph)[0].rstrip(".") + "." if paragraph else ""


def documented(of: object, section: str) -> dict[str, str]:
    """Return the entries of a section of a docstring by name, each in one line.

    >>> documented(documented, "Args")["section"]
    'Name of the section: `Args` or `Attributes`.'

    Args:
        of: A class or function.
        section: Name of the section: `Args` or `Attributes`.
    """
    lines = iter((getdoc(of) or "").splitlines())
    entries: dict[str, str] = {}
    if f"{section}:" not in lines:  # consumes the lines until there
        return entries
    name = ""
    for line in lines:
        if line and not line.startswith(" "):
            break
        if found := _ENTRY.match(line):
            name = found[1]
            entries[name] = found[2]
        elif name and line.strip():
            entries[name] += f" {line.strip()}"
    return entries
