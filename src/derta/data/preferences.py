"""What DPO learns from: one query, the response to prefer and the one to move away from, as token ids.

The rejected side of a triple is its harmful response: DPO scores that text by definition, and lowers its likelihood.
This is the one place where harmful tokens are given to a loss; the chosen side, whose likelihood rises, never has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from derta.chat import ChatFormat, encode_turn
from derta.data.cleaning import match_key
from derta.data.encoding import EncodedTriple, cut_middle
from derta.data.fields import pick_format, text_of
from derta.errors import DataError
from derta.files import parse_record
from derta.records import Message, Record, Text, short_hash
from derta.sources import read_rows, source_name

_KEPT_OF_PROMPT = 16


class Preference(Record):
    """A query with the response to prefer and the one to move away from, as users bring them beside the triples."""

    query: Text
    chosen: Text
    rejected: Text
    source: str | None = None

    @property
    def id(self) -> str:
        """Named by its content."""
        return short_hash(self.query, self.chosen, self.rejected)


class CleanPreferences(NamedTuple):
    """The preferences that are left, and how many were dropped for which reason (`in_evaluation`, `duplicate`)."""

    preferences: list[Preference]
    dropped: Counter[str]


class EncodedPair(NamedTuple):
    """A pair as ids; both responses end with the closing ids.

    Each side has its own prompt, as in `EncodedTriple`: a response's first token may take in the template's last blank.
    """

    id: str
    chosen_prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_prompt_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]


class _PairFormat(NamedTuple):
    fields: tuple[str, ...]


PAIR_FORMATS = {
    "query": _PairFormat(("query", "chosen", "rejected")),
    "prompt": _PairFormat(("prompt", "chosen", "rejected")),
}


def load_preferences(
    source: str | Path, *, split: str = "train", format: str = "auto", limit: int | None = None
) -> list[Preference]:
    """Return rows of {query, chosen, rejected} (or {prompt, …}), all text, from a file, folder or hub data set.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "pairs.jsonl")
    ...     _ = path.write_text('{"prompt": "Bread?", "chosen": "Take flour.", "rejected": "No."}')
    ...     [(pair.query, pair.chosen) for pair in load_preferences(path)]
    [('Bread?', 'Take flour.')]

    Args:
        source: A `.json`, `.jsonl`, `.csv` or `.parquet` file, a folder that `datasets` can load, or a hub id.
        split: Of a folder or a hub data set.
        format: A key of `PAIR_FORMATS`, or `auto` to go by the field names.
        limit: The most pairs that are returned, from the first on.

    Raises:
        DataError: unknown format, a missing or empty field, or no row at all.
    """
    key, _, rows = pick_format(read_rows(source, split=split), PAIR_FORMATS, name=format, source=source)
    pairs = [
        parse_record(
            Preference,
            {
                "query": text_of(row, key),
                "chosen": text_of(row, "chosen"),
                "rejected": text_of(row, "rejected"),
                "source": source_name(source),
            },
            where=row.where,
        )
        for row in rows
    ]
    return pairs[:limit]


def clean_preferences(
    preferences: Iterable[Preference], *, evaluation_requests: Iterable[str], harmful: Iterable[str]
) -> CleanPreferences:
    """Drop repeated preferences and those that ask what the model will be evaluated on.

    Args:
        preferences: what the readers gave.
        evaluation_requests: texts of requests that must not be trained on (see `match_key`).
        harmful: the triples' harmful responses.

    Raises:
        DataError: a chosen response is a harmful one, or the same as the rejected one. Not a row to leave out quietly:
            a file that prefers harm is the wrong file, or its columns are swapped.
    """
    held_out = {match_key(text) for text in evaluation_requests}
    known_harm = {match_key(text) for text in harmful}
    kept: dict[str, Preference] = {}
    dropped: Counter[str] = Counter()
    for one in preferences:
        if match_key(one.chosen) in known_harm or match_key(one.chosen) == match_key(one.rejected):
            raise DataError(
                f"pair {one.id} ({one.source}): expected a chosen response that is neither harmful nor the rejected "
                f"one, got {one.chosen[:40]!r}; check that the columns are not swapped"
            )
        reason = "in_evaluation" if match_key(one.query) in held_out else "duplicate" if one.id in kept else None
        if reason is None:
            kept[one.id] = one
        else:
            dropped[reason] += 1
    return CleanPreferences(list(kept.values()), dropped)


def encode_preference(chat: ChatFormat, preference: Preference) -> EncodedPair:
    """Encode a user's pair with the model's own template.

    Raises:
        DataError: a response has no token of its own.
    """
    asked = [Message(role="user", content=preference.query)]
    chosen = encode_turn(chat, asked, preference.chosen)
    rejected = encode_turn(chat, asked, preference.rejected)
    return _checked(
        EncodedPair(
            preference.id,
            tuple(chosen.prompt_ids),
            (*chosen.response_ids, *chat.closing_ids),
            tuple(rejected.prompt_ids),
            (*rejected.response_ids, *chat.closing_ids),
        ),
        num_closing=len(chat.closing_ids),
    )


def triple_pair(triple: EncodedTriple) -> EncodedPair:
    """Prefer a triple's safe response to its harmful one.

    Source: arXiv 2407.09121, section 4 (DPO as a baseline: chosen r, rejected r-hat).

    Raises:
        DataError: the two are the same.
    """
    return _checked(
        EncodedPair(
            triple.id,
            triple.prompt_ids,
            triple.safe_ids,
            triple.harmful_prompt_ids,
            (*triple.harmful_ids, *triple.closing_ids),
        ),
        num_closing=len(triple.closing_ids),
    )


def _checked(pair: EncodedPair, *, num_closing: int) -> EncodedPair:
    chosen, rejected = pair.chosen_prompt_ids + pair.chosen_ids, pair.rejected_prompt_ids + pair.rejected_ids
    if min(len(pair.chosen_ids), len(pair.rejected_ids)) <= num_closing or chosen == rejected:
        raise DataError(f"pair {pair.id}: expected two different responses of at least one token; drop the pair")
    return pair


def cut_pair(pair: EncodedPair, *, max_length: int) -> EncodedPair:
    """Shorten both sides to `max_length`, the same of either prompt.

    The rejected response gives way first, down to half the length, then the middle of the prompt, and only then the
    end of the chosen response, so that a refusal always survives.

    >>> pair = EncodedPair("a", (1,) * 20, (5, 6), (1,) * 20, (7,) * 30)
    >>> cut = cut_pair(pair, max_length=32)
    >>> len(cut.chosen_prompt_ids), len(cut.chosen_ids), len(cut.rejected_prompt_ids), len(cut.rejected_ids)
    (16, 2, 16, 16)
    """
    longest = max(len(pair.chosen_ids), min(len(pair.rejected_ids), max_length // 2))
    room = max(_KEPT_OF_PROMPT, max_length - longest)
    prompts: list[Sequence[int]] = [cut_middle(ids, room) for ids in (pair.chosen_prompt_ids, pair.rejected_prompt_ids)]
    return EncodedPair(
        pair.id,
        tuple(prompts[0]),
        pair.chosen_ids[: max_length - len(prompts[0])],
        tuple(prompts[1]),
        pair.rejected_ids[: max_length - len(prompts[1])],
    )
