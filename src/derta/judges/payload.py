"""Text that a reply in code says: string literals, comments and prose, without the code around them.

Under CodeAttack a model answers with a program that appends the steps of its answer to a list, so the answer is in
string literals. Lines of code are recognised by their form, in Python, C, JavaScript, Go, Java and JSON. Text that is
not code is returned unchanged.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

_MIN_CODE_LINES = 3  # lines of code without a fence that make a text code
_SHORT = 3  # words; shorter literals in sequence are one sentence
_FENCE = re.compile(r"[ \t]{0,12}(?:```|~~~)")
_CODE_LINE = re.compile(
    r"[ \t]{0,60}(?:"
    r"(?:import|from|def|class|struct|func|fn|function|package|using|namespace|public|private|static|const|let|var|void|"
    r"int|char|string|bool|float|double|auto)\b[^.!?\n]{1,160}[;:{}()\[\]\"'>\w,=*]?[ \t]{0,8}$"
    r"|#\s?(?:include|define)\b"
    r"|(?:if|elif|else if|for|while|switch|with|try|except|catch)\b[^\n]{0,160}[:{;][ \t]{0,8}$"
    r"|(?:echo|puts|printf|println!?)[ (]"
    r"|(?:return|print|raise|throw|yield|assert|del|case|break|continue|pass|else)\b[^.\n]{0,8}(?:[(\[{\"':;]|$)"
    r"|[A-Za-z_$][\w.$\[\]<>:*]{0,60}(?:\(|\s?[-+:]?=\s?\S)"
    r"|[A-Za-z_][\w<>*:]{0,40}[ \t][*&]?[A-Za-z_]\w{0,40}(?:\[\d{0,6}\])?\s?=\s?\S"
    r"|[{}()\[\];,]{1,12}[ \t]{0,8}$|[\"'][^\n]{0,2000}[\"'][ \t]{0,4}[\])},:;][^\n]{0,80}$|\"[^\"\n]{1,80}\"\s?:"
    r"|#|//|/\*|--\s|@\w|\"{3}|'{3})"
)
_PROSE = re.compile(
    r"[ \t]{0,60}[^\w\n]{0,8}(?:\d{1,2}[.):][ \t]{1,4})?(?:[^\W\d_]{1,30}['’,;:-]{0,2}[ \t]{1,4}){2}[^\W_]"
)
_PART = re.compile(
    r'"{3}([^"\n]*)|\'{3}([^\'\n]*)|[fFrRbBuU]{0,2}"((?:[^"\\\n]|\\.)*)"?|(?<!\w)\'((?:[^\'\\\n]|\\.)*)\'?|`([^`\n]*)`?|'
    r"(?:#+(?![!#]|(?:include|define|pragma|ifn?def|endif)\b)|//+|/\*+|^[ \t]*\*(?!\w))([^\n]*)"
)
_ALSO_PROSE = ("#", "--", "@", '"', "'", "for ", "if ", "while ", "with ", "from ")  # starts of headings, quotations …
_COMMENT = 6  # group of a comment in `_PART`
_ESCAPES = ((r"\n", " \n"), (r"\t", "  "), (r"\"", ' "'), (r"\'", " '"))
_CODE_SIGNS = (
    "```", "~~~", "append(", 'echo "', "push(", "print(", "def ", "import ", "#include", "return", "= [", "={", "= {",
    "();",
)  # fmt: skip


class Payload(NamedTuple):
    """Text that a reply says, with the start of each of its parts in the payload and in the reply.

    `is_code` is False for a text that is not code; it is its own payload.
    """

    text: str
    starts: list[int]
    origins: list[int]
    is_code: bool

    def origin(self, index: int) -> int:
        """Return the index in the reply of an index in the payload."""
        part = bisect_right(self.starts, index) - 1
        return self.origins[part] + index - self.starts[part] if part >= 0 else index


class _Part(NamedTuple):
    start: int
    text: str
    is_short: bool


class _Line(NamedTuple):
    start: int
    text: str
    is_code: bool
    may_be_code: bool


def normalized(text: str) -> str:
    """Return a text in lower case and without backticks and outer blanks, so that copies of it are equal to it.

    >>> normalized(" Store it in `task`.")
    'store it in task.'
    """
    return text.strip().lower().replace("`", "")


def unwrap(reply: str, *, prompt: str = "", with_code: bool = False) -> Payload:
    r"""Return the text that a reply says.

    >>> unwrap('```python\nsteps = []\nsteps.append("Step 1: Wash the roots.")\n```').text
    'Step 1: Wash the roots.'
    >>> unwrap("Wash the roots (twice).").text
    'Wash the roots (twice).'

    Args:
        reply: The reply.
        prompt: The prompt (see `normalized`); lines of code that are copied from it are left out.
        with_code: Keep the lines of code, for requests for a program.
    """
    if not any(sign in reply for sign in _CODE_SIGNS):
        return Payload(reply, [0], [0], is_code=False)
    lines = list(_lines(reply))
    num_code = sum(line.is_code and not line.text.lstrip().startswith(_ALSO_PROSE) for line in lines)
    if "```" not in reply and "~~~" not in reply and num_code < _MIN_CODE_LINES:
        return Payload(reply, [0], [0], is_code=False)
    if num_code:
        lines = _with_unclear_lines(lines)
    parts = [
        part
        for line in lines
        if not (line.is_code and normalized(line.text) in prompt)
        for part in (
            _parts(line.start, line.text, with_code=with_code)
            if line.is_code
            else [_Part(line.start, line.text, is_short=False)]
        )
    ]
    return _join(parts)


def _lines(reply: str) -> Iterator[_Line]:
    """Yield each line that is no fence."""
    start, has_fence, inside = 0, "```" in reply or "~~~" in reply, False
    for line in reply.split("\n"):
        if _FENCE.match(line):
            inside = not inside
        else:
            may_be = inside or not has_fence
            yield _Line(start, line, is_code=may_be and bool(_CODE_LINE.match(line)), may_be_code=may_be)
        start += len(line) + 1


def _with_unclear_lines(lines: list[_Line]) -> list[_Line]:
    """Return the lines of a text with code in which lines without prose are code too, unless most of it is prose."""
    unclear = [line.may_be_code and not line.is_code and line.text.strip() != "" for line in lines]
    prose = [is_unclear and bool(_PROSE.match(line.text)) for is_unclear, line in zip(unclear, lines, strict=True)]
    if 2 * sum(prose) > sum(line.is_code for line in lines) + sum(unclear):
        return lines
    return [
        line._replace(is_code=True) if is_unclear and not is_prose else line
        for line, is_unclear, is_prose in zip(lines, unclear, prose, strict=True)
    ]


def _parts(start: int, line: str, *, with_code: bool) -> Iterator[_Part]:
    """Yield the literals and comments of a line of code, or the whole line."""
    if with_code:
        yield _Part(start, line, is_short=False)
        return
    for match in _PART.finditer(line):
        if match.lastindex is not None and (text := match[match.lastindex]).strip():
            for escape, plain in _ESCAPES:
                text = text.replace(escape, plain)
            is_short = match.lastindex < _COMMENT and len(text.split()) < _SHORT
            yield _Part(start + match.start(match.lastindex), text, is_short=is_short)


def _join(parts: list[_Part]) -> Payload:
    """Return the parts as lines; short literals in sequence are one line."""
    pieces: list[str] = []
    starts: list[int] = []
    length, short_before = 0, False
    for part in parts:
        if pieces:
            pieces.append(" " if part.is_short and short_before else "\n")
            length += 1
        pieces.append(part.text)
        starts.append(length)
        length += len(part.text)
        short_before = part.is_short
    return Payload("".join(pieces), starts, [part.start for part in parts], is_code=True)
