"""JUnit XML, which CI services show as test results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from derta.errors import escape_hidden
from derta.files import write_text


class JUnitCase(NamedTuple):
    """A test case: its name, what it found, and whether it passed."""

    name: str
    text: str
    passed: bool


def write_junit(path: Path, cases: Sequence[JUnitCase], *, suite: str, group: str) -> None:
    """Write test cases as one suite; `group` is the class name of the cases, by which CI services sort them.

    Characters that XML cannot hold are replaced by their code points.
    """
    failures = str(sum(not case.passed for case in cases))
    counts = {"tests": str(len(cases)), "failures": failures, "errors": "0"}
    root = ElementTree.Element("testsuites", counts)
    element = ElementTree.SubElement(root, "testsuite", {"name": escape_hidden(suite)} | counts)
    for case in cases:
        attributes = {"name": escape_hidden(case.name), "classname": escape_hidden(group)}
        test = ElementTree.SubElement(element, "testcase", attributes)
        if not case.passed:
            ElementTree.SubElement(test, "failure", {"message": escape_hidden(case.text)})
        ElementTree.SubElement(test, "system-out").text = escape_hidden(case.text)
    ElementTree.indent(root)
    write_text(path, ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n")
