"""Tokens of replies and harmful answers, coloured by the refusal probability before each, methods one above the other.

The section stays small: one prompt of each attack and data set in turn, until its size is reached. They are the first
ones of the run, not chosen by their outcome.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import escape

from derta.errors import escape_hidden
from derta.reporting.reply_views import Chip, reply_view
from derta.reporting.tables import label_of
from derta.reporting.text import Label, TruncatedText, format_percent, label_slug, transcript_filter, truncate
from derta.results import Place, ScoredAnswer, Transcript, place_of

MAX_BYTES = 140_000
MAX_TOKENS = 200
REQUEST_CHARS, PREFILL_CHARS = 1500, 400
LEVELS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95)
"""Lowest probabilities of the colours 1, 2, …; a probability below the first has none."""
NO_TEXT = "·"
"""Shown for a token without text of its own: a part of a character, or a token that was left out."""
_TOKEN_BYTES, _MARK_BYTES, _CELL_BYTES, _ROW_BYTES, _PROMPT_BYTES = 7, 38, 9, 310, 1000


class TokenView(NamedTuple):
    """A token: its text, the level of its colour (0: none), and its probability in percent."""

    text: str
    level: int
    percent: str


@dataclass(frozen=True, slots=True)
class RowView:
    """Tokens of one method, and the number of those that are left out at the end.

    `highest` is the position (from 1) and the percentage of the largest probability of all its tokens; None if none
    reaches the first level. `outcome` is the label of a reply, as in the transcripts; None for a harmful answer.
    """

    method: str
    seed: int | None
    outcome: Chip | None
    tokens: tuple[TokenView, ...]
    num_omitted: int
    highest: tuple[int, str] | None


@dataclass(frozen=True, slots=True)
class PromptView:
    """A prompt, or the request of a harmful answer, with the tokens of each method.

    `positions` are those (from 1) at which a displayed token has a colour, for the table of numbers.
    """

    id: str
    request: TruncatedText
    prefill: str
    is_prefill_cut: bool
    rows: tuple[RowView, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GroupView:
    """Displayed prompts of one attack or data set; None in `label` for the held-out harmful answers.

    `filter` selects the transcripts of the attack or data set (see `transcript_filter`).
    """

    label: Label | None
    suite: str
    slug: str
    filter: str
    prompts: tuple[PromptView, ...]
    num_prompts: int


@dataclass(frozen=True, slots=True)
class TokenHeat:
    """Groups of prompts whose tokens are shown, and the numbers of displayed and of scored prompts and answers."""

    groups: tuple[GroupView, ...]
    num_displayed: int
    num_total: int
    missing: tuple[str, ...]


class _Scored(NamedTuple):
    """Token texts of one method with their probabilities, and the label of the reply."""

    method: str
    seed: int | None
    outcome: Chip | None
    texts: list[str]
    probabilities: Sequence[float]


class _Entry(NamedTuple):
    """A prompt or an answer with what each method has there."""

    id: str
    request: str
    prefill: str
    rows: list[_Scored]


def token_heat(
    transcripts: Sequence[Transcript], answers: Sequence[ScoredAnswer] = (), *, max_bytes: int = MAX_BYTES
) -> TokenHeat | None:
    """Return the tokens to display: the harmful answers, and replies of each attack and data set; None without any.

    Of several seeds, each prompt is shown with the first that has probabilities. A transcript whose reply has no
    `token_starts` (because its text was removed, for example) is shown with its colours and numbers, without text.
    """
    entries = {**_answer_entries(answers), **_reply_entries(transcripts)}
    if not entries:
        return None
    selected: dict[Place | None, list[PromptView]] = {place: [] for place in entries}
    size = num_displayed = 0
    for place, entry in _round_robin(entries):
        view = _prompt_view(entry)
        size += _estimate_bytes(view)
        if num_displayed and size > max_bytes:
            break
        selected[place].append(view)
        num_displayed += 1
    groups = tuple(_group_view(place, tuple(selected[place]), len(entries[place])) for place in entries)
    methods = dict.fromkeys(one.method for one in transcripts)
    scored = {row.method for each in entries.values() for entry in each for row in entry.rows}
    total = sum(map(len, entries.values()))
    return TokenHeat(groups, num_displayed, total, tuple(method for method in methods if method not in scored))


def _answer_entries(answers: Sequence[ScoredAnswer]) -> dict[Place | None, list[_Entry]]:
    found: dict[tuple[str, str], _Entry] = {}
    for one in answers:
        entry = found.setdefault((one.request_id, one.text), _Entry(one.request_id, one.request, "", []))
        texts = _token_texts(one.text, one.token_starts, len(one.refusal_probability))
        _add(entry, _Scored(one.method, one.seed, None, texts, one.refusal_probability))
    return {None: list(found.values())} if found else {}


def _reply_entries(transcripts: Sequence[Transcript]) -> dict[Place | None, list[_Entry]]:
    found: dict[Place | None, dict[str, _Entry]] = {}
    for one in transcripts:
        if not one.refusal_probability:
            continue
        prompt, reply = one.prompt, one.reply
        new = _Entry(prompt.request_id, prompt.request or "", prompt.prefill or "", [])
        entry = found.setdefault(place_of(prompt), {}).setdefault(prompt.id, new)
        texts = _token_texts(reply.text, reply.token_starts, len(one.refusal_probability))
        _add(entry, _Scored(one.method, one.seed, reply_view(one).outcome, texts, one.refusal_probability))
    return {place: list(entries.values()) for place, entries in found.items()}


def _add(entry: _Entry, row: _Scored) -> None:
    if all(row.method != other.method for other in entry.rows):  # the first seed
        entry.rows.append(row)


def _token_texts(text: str, starts: Sequence[int] | None, count: int) -> list[str]:
    """Return the text of each token; tokens without known places have none.

    >>> _token_texts("No, sorry", (0, 2, 3), 3), _token_texts("No, sorry", None, 2)
    (['No', ',', ' sorry'], ['', ''])
    """
    if starts is None or len(starts) != count:
        return [""] * count
    ends = [*starts[1:], len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def _round_robin(entries: Mapping[Place | None, Sequence[_Entry]]) -> Iterator[tuple[Place | None, _Entry]]:
    """Yield the first prompt of every group, then the second of every group, and so on."""
    for turn in range(max(map(len, entries.values()))):
        for place, each in entries.items():
            if turn < len(each):
                yield place, each[turn]


def _group_view(place: Place | None, prompts: tuple[PromptView, ...], num_prompts: int) -> GroupView:
    if place is None:
        return GroupView(None, "attack", "answers", "", prompts, num_prompts)
    link = transcript_filter(place)
    return GroupView(label_of(place), place.suite, label_slug(place), link, prompts, num_prompts)


def _prompt_view(entry: _Entry) -> PromptView:
    rows = tuple(map(_row_view, entry.rows))
    positions = {i for row in rows for i, token in enumerate(row.tokens, start=1) if token.level}
    return PromptView(
        id=entry.id,
        request=truncate(entry.request, REQUEST_CHARS),
        prefill=entry.prefill[-PREFILL_CHARS:],
        is_prefill_cut=len(entry.prefill) > PREFILL_CHARS,
        rows=rows,
        positions=tuple(sorted(positions)),
    )


def _row_view(row: _Scored) -> RowView:
    tokens = tuple(
        TokenView(_shown(text), level_of(value), format_percent(value))
        for text, value in zip(row.texts[:MAX_TOKENS], row.probabilities, strict=False)
    )
    place, value = max(enumerate(row.probabilities, start=1), key=lambda each: each[1])
    highest = (place, format_percent(value)) if level_of(value) else None
    return RowView(row.method, row.seed, row.outcome, tokens, len(row.texts) - len(tokens), highest)


def _shown(text: str) -> str:
    return text.replace("\n", "↵\n") or NO_TEXT


def level_of(probability: float) -> int:
    """Return the level of a probability's colour: the number of `LEVELS` that it reaches.

    >>> level_of(0.0009), level_of(0.001), level_of(0.5), level_of(1.0)
    (0, 1, 5, 7)
    """
    return bisect_right(LEVELS, probability)


def legend() -> list[tuple[int, str]]:
    """Return each level with its range in percent.

    >>> legend()[0], legend()[1], legend()[-1]
    ((0, 'below 0.1'), (1, '0.1–1'), (7, '95–100'))
    """
    bounds = [*(f"{100 * one:g}" for one in LEVELS), "100"]
    return [(0, f"below {bounds[0]}"), *((i, f"{bounds[i - 1]}–{bounds[i]}") for i in range(1, len(bounds)))]


def _estimate_bytes(view: PromptView) -> int:
    """Estimate the size of a prompt in the page, in bytes."""
    size = _PROMPT_BYTES + _num_bytes(view.request.text) + _num_bytes(view.prefill)
    for row in view.rows:
        size += _ROW_BYTES + len(row.tokens) * _TOKEN_BYTES + (3 + len(view.positions)) * _CELL_BYTES
        size += sum(_num_bytes(token.text) * (2 if token.level else 1) for token in row.tokens)
        size += sum(_MARK_BYTES for token in row.tokens if token.level)
    return size


def _num_bytes(text: str) -> int:
    return len(str(escape(escape_hidden(text))).encode("utf-8", "backslashreplace"))
