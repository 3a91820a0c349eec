"""Tables of texts in files: a text on each line, with ⏎ for its line breaks; headings begin with `==`."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def text_lines(name: str) -> list[str]:
    lines = (HERE / name).read_text("utf-8").splitlines()
    return [line.replace("⏎", "\n") for line in lines if not line.startswith("== ")]
