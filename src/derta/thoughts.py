"""Thoughts of reasoning models: the text around them in a chat template, and the start of the answer in a reply."""

from __future__ import annotations

import re
from typing import NamedTuple

THOUGHT_MARKERS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<mm:think>", "</mm:think>"),
    ("<seed:think>", "</seed:think>"),
    ("<think:opensource>", "</think:opensource>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
)
"""Marker before a thought and marker after it, in the chat templates of published reasoning models."""

_TAGS = ("thought", "analysis", "reflection", "scratchpad", "inner_monologue")
_CLOSED_MARKERS = (
    *((f"<{tag}>", f"</{tag}>") for tag in _TAGS),
    ("analysis", "assistantfinal"),
    ("Thinking...", "...done thinking."),
)
"""Markers of a thought that is one only if it is closed and an answer follows: tags that prompts ask for, harmony
without its special tokens, and ollama's command line."""

_FIRST = ("<", "[", "◁", "Here are my reasoning", "analysis", "Thinking...")  # starts of all markers
_OPEN_ANALYSIS = re.compile(r"analysis[A-Z][a-z' ]")  # harmony without its special tokens, at the start of a reply
_ANSWER_HEADERS = ("<|channel|>final<|message|>",)
"""Markers that precede an answer also where there is no thought (harmony, the format of gpt-oss)."""


class Thought(NamedTuple):
    """Format of the thoughts of a chat template.

    Attributes:
        open: Text that begins a thought after the generation prompt; empty if the generation prompt itself ends with
            an open thought.
        close: Text between a thought and the answer, as the template writes it.
        marker: The part of `close` that ends a thought in a reply, without white space.
    """

    open: str
    close: str
    marker: str


class OpenTail(NamedTuple):
    """A thought at the end of a generation prompt: its offset, and whether it is closed (an empty thought)."""

    start: int
    closed: bool
    open: str
    close: str


def thought_at_end(prompt: str) -> OpenTail | None:
    """Return the open or empty thought that ends a generation prompt, or None.

    >>> thought_at_end("<|user|>Hi<|assistant|><think>")
    OpenTail(start=23, closed=False, open='<think>', close='</think>')
    """
    for opening, closing in THOUGHT_MARKERS:
        start = prompt.rfind(opening)
        rest = prompt[start + len(opening) :].strip()
        if start >= 0 and rest in {"", closing}:
            return OpenTail(start, bool(rest), opening, closing)
    return None


def without_empty_thought(prompt: str) -> str:
    """Return a generation prompt without the empty thought in it that a header of the answer follows.

    >>> without_empty_thought("Hi<|bot|><think></think><|answer|>")
    'Hi<|bot|><|answer|>'
    """
    for opening, closing in THOUGHT_MARKERS:
        before, mark, after = prompt.rpartition(opening)
        inner = after.lstrip()
        if mark and inner.startswith(closing):
            return before + inner[len(closing) :]
    return prompt


def lead_of(prompt: str, head: str, *, thought: Thought | None) -> str | None:
    r"""Return the text between a generation prompt and the answer; None if the two contradict each other.

    Templates write some text there themselves: a blank (Llama 2), a channel (gpt-oss), an empty thought (Qwen3). A
    thought that the generation prompt opens is closed, because the rendering of a finished turn may have none.

    Args:
        prompt: The conversation with the generation prompt.
        head: The conversation with a finished assistant turn, up to its content.
        thought: Format of the template's thoughts.

    >>> lead_of("[INST] Hi [/INST]", "[INST] Hi [/INST] ", thought=None)
    ' '
    >>> lead_of("Hi<|bot|><think>\n", "Hi<|bot|>", thought=None)
    '\n</think>\n\n'
    """
    if head.startswith(prompt):
        return head[len(prompt) :]
    tail = thought_at_end(prompt)
    if tail is None:
        bare = without_empty_thought(prompt)
        return head[len(bare) :] if bare != prompt and head.startswith(bare) else None
    if not head.startswith(prompt[: tail.start]):
        return None
    finished = head[tail.start :]
    inner = finished.removeprefix(tail.open).lstrip()
    has_close = inner.startswith(tail.close)
    after = inner[len(tail.close) :] if has_close else finished
    if tail.closed:
        return after
    if has_close:
        return tail.close + after
    close = thought.close if thought else f"\n{tail.close}\n\n"
    return close if close.endswith(after) else close + after


def answer_start(text: str, *, marker: str | None = None, is_open: bool = False) -> int | None:
    r"""Return the character offset of the answer in a reply: 0 without a thought, None if a thought is not closed.

    Args:
        text: The reply.
        marker: What ends a thought in the model's format. None for a reply of unknown format: its thought begins with
            one of `THOUGHT_MARKERS` at the start of the text, or the prompt has opened it and one closing marker is in
            the text.
        is_open: Whether the prompt ends with an open thought.

    >>> answer_start("<think>\nBread is fine.\n</think>\n\nMix flour."), answer_start("Mix flour.")
    (33, 0)
    >>> answer_start("Bread is", marker="</think>", is_open=True) is None
    True
    """
    start = len(text) - len(text.lstrip())
    closing = _closing(text, start)
    if closing is not None:
        end = _after(text, marker or closing, start)
        again = end is not None and marker is None and _closing(text, end) is not None
        rest = answer_start(text[end:]) if again else 0
        return None if end is None or rest is None else end + rest
    if marker is not None and is_open:
        return _after(text, marker, 0)
    for header in _ANSWER_HEADERS:
        if text.startswith(header, start):
            return start + len(header)
    if marker is None and ("<" in text or "[" in text):  # all markers but the last start so
        for opening, closing in THOUGHT_MARKERS[:-1]:
            if text.count(closing) == 1 and opening not in text:
                return _after(text, closing, 0)
    return 0


def _closing(text: str, start: int) -> str | None:
    """Return what closes the thought that starts at an index, in its own case; None if none starts there.

    >>> _closing("<THINK>Hm.</THINK>", 0), _closing("analysisHm.assistantfinalNo.", 0), _closing("analysis of bread", 0)
    ('</THINK>', 'assistantfinal', None)
    """
    if not text.startswith(_FIRST, start):
        return None
    for opening, closing in THOUGHT_MARKERS:
        if _starts(text, opening, start):
            found = re.search(re.escape(closing), text[start:], re.IGNORECASE)
            return found[0] if found else closing
    for opening, closing in _CLOSED_MARKERS:
        if _starts(text, opening, start):
            found = re.search(re.escape(closing), text[start:], re.IGNORECASE)
            if found and text[start + found.end() :].strip():
                return found[0]
    return "assistantfinal" if _OPEN_ANALYSIS.match(text, start) else None


def _starts(text: str, opening: str, start: int) -> bool:
    return text[start : start + len(opening)].lower() == opening.lower()


def is_empty_thought(text: str) -> bool:
    r"""Return whether the text before an answer has nothing but markers.

    >>> is_empty_thought("<think>\n\n</think>\n\n"), is_empty_thought("Hm.</think>")
    (True, False)
    """
    for marker in (part for pair in THOUGHT_MARKERS for part in pair):
        text = text.replace(marker, "")
    return not text.strip()


def _after(text: str, marker: str, start: int) -> int | None:
    place = text.find(marker, start)
    if place < 0:
        return None
    end = place + len(marker)
    return end + len(text[end:]) - len(text[end:].lstrip())
