"""Preference pairs for DPO: a prompt with a chosen and a rejected response, loaded, validated and tokenized.

The rejected side of a triple is its harmful response: DPO computes the likelihood of that text by definition, and
lowers it. This is the only module that passes harmful tokens to a loss; they are never part of the chosen side, whose
likelihood increases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from derta.chat import ChatFormat
from derta.columns import lower_names
from derta.data.detection import parse_rows, pick_format
from derta.data.encoding import continued_turn
from derta.data.fields import RefusedRows, log_dropped
from derta.data.matching import RequestTurns, conversation_keys, match_key, request_key
from derta.data.pair_formats import PAIR_FORMATS
from derta.data.triple_encoding import EncodedTriple
from derta.data.truncation import MIN_PROMPT_TOKENS, cut_middle
from derta.errors import DataError
from derta.files import parse_record
from derta.messages import is_absent
from derta.records import Context, Message, Record, Text, Tools, context_keys, short_hash
from derta.sources import read_rows, source_name


class Preference(Record):
    """Preference pair: a query, after its context, with a chosen and a rejected response.

    `prefill` is a start of the answer that both responses continue, as text. `rejected_ends` is False if the rejected
    response was cut off: it then has no closing tokens.
    """

    query: Text
    chosen: Text
    rejected: Text
    source: str | None = None
    messages: Context = ()
    tools: Tools = None
    prefill: Annotated[str | None, Field(exclude_if=is_absent)] = None
    rejected_ends: Annotated[bool, Field(exclude_if=bool)] = True

    @model_validator(mode="after")
    def _has_no_empty_message(self) -> Preference:
        if any(message.is_empty for message in self.messages):
            raise ValueError("messages must not be empty")
        return self

    @property
    def id(self) -> str:
        """Id of the pair, a hash of its content."""
        start = [f"prefill\x1e{self.prefill}"] if self.prefill else []
        return short_hash(self.query, self.chosen, self.rejected, *context_keys(self.messages, self.tools), *start)

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The context and the query, as the messages before a response."""
        return (*self.messages, Message(role="user", content=self.query))


class CleanPreferences(NamedTuple):
    """Output of `clean_preferences`: the remaining pairs, and counts of the dropped ones by reason.

    The reasons are `same_responses` (but for case, spacing and punctuation), `in_evaluation` and `duplicate`.
    """

    preferences: list[Preference]
    dropped: Counter[str]


class EncodedPair(NamedTuple):
    """Token ids of a preference pair; both responses end with the closing ids.

    Each side has its own prompt, as in `EncodedTriple`: the first token of a response may include the template's last
    blank.
    """

    id: str
    chosen_prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_prompt_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Number of tokens of the longer side."""
        return max(
            len(self.chosen_prompt_ids) + len(self.chosen_ids), len(self.rejected_prompt_ids) + len(self.rejected_ids)
        )


class ReadPreferences(NamedTuple):
    """Output of `read_preferences`: the pairs of a dataset, and counts of the dropped rows by reason.

    `first_fault` names the first row that the chat template refused, with the template's message; empty without one.
    """

    preferences: list[Preference]
    dropped: Counter[str]
    first_fault: str = ""


def load_preferences(
    source: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    limit: int | None = None,
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Preference]:
    """Load the preference pairs of a file, a `datasets` folder or a Hub dataset; dropped rows are logged.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "pairs.jsonl")
    ...     _ = path.write_text('{"prompt": "Bread?", "chosen": "Take flour.", "rejected": "No."}')
    ...     [(pair.query, pair.chosen) for pair in load_preferences(path)]
    [('Bread?', 'Take flour.')]

    Args:
        source: A file, a folder or a Hub id, see `derta.sources.read_rows`.
        split: Split of a folder or a Hub dataset.
        format: Key of `PAIR_FORMATS`, or `auto` to detect the format from the field names.
        limit: Maximum number of pairs, counted from the first; None returns all.
        config: Configuration of a folder or a Hub dataset that has several.
        columns: Names of columns in the source, by the names that the format has: `{"chosen": "good"}`.

    Raises:
        DataError: See `read_preferences`.
    """
    read = read_preferences(source, split=split, format=format, limit=limit, config=config, columns=columns)
    log_dropped(source, summary=f"{len(read.preferences)} preferences", dropped=read.dropped)
    return read.preferences


def read_preferences(
    source: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    limit: int | None = None,
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
    fault_of: Callable[[Preference], str | None] | None = None,
) -> ReadPreferences:
    """Load the pairs of a dataset, with counts of the dropped rows; for the arguments see `load_preferences`.

    A row with an empty text, two equal responses or two different prompts is dropped and counted. So is one for which
    `fault_of` returns a message, such as that the chat template refuses its context; the first is named in the log.

    Raises:
        DataError: Unknown format, a missing or invalid field, or no pair in the dataset.
    """
    rows = map(lower_names, read_rows(source, split=split, config=config, columns=columns))
    _, layout, rows = pick_format(rows, PAIR_FORMATS, name=format, source=source, columns=columns or ())
    dropped, refused, name = Counter[str](), RefusedRows(fault_of), source_name(source)
    pairs: list[Preference] = []
    for row, pair in parse_rows(rows, layout.read, format=layout, source=source, dropped=dropped):
        preference = parse_record(Preference, {**pair._asdict(), "source": name}, where=row.where)
        if not refused.has(preference, where=row.where):
            pairs.append(preference)
    refused.log()
    dropped += refused.dropped
    if not pairs:
        raise DataError(
            f"{source}: expected pairs of a chosen and a rejected response, found none ({dict(dropped)}); "
            f"{refused.first_fault or 'check the format'}"
        )
    return ReadPreferences(pairs[:limit], dropped, refused.first_fault)


def clean_preferences(
    preferences: Iterable[Preference], *, evaluation_requests: Iterable[RequestTurns], harmful: Iterable[str]
) -> CleanPreferences:
    """Return the pairs without duplicates and without evaluation requests.

    Args:
        preferences: Input pairs, in the order of the dataset.
        evaluation_requests: Requests that must not be trained on (see `match_key`).
        harmful: Harmful responses of the triples, and harmful turns of their contexts.

    Raises:
        DataError: A chosen response is harmful. Such a row is not dropped: a dataset that prefers harm is the wrong
            file, or its columns are swapped.
    """
    held_out = {request_key(request) for request in evaluation_requests}
    harmful_keys = {match_key(text) for text in harmful}
    cleaned: dict[str, Preference] = {}
    dropped: Counter[str] = Counter()
    for pair in preferences:
        if match_key(pair.chosen) in harmful_keys:
            raise DataError(
                f"pair {pair.id} ({pair.source}): expected a chosen response that is not a harmful one of the triples, "
                f"got {pair.chosen[:40]!r}; check that the columns are not swapped"
            )
        if match_key(pair.chosen) == match_key(pair.rejected):
            dropped["same_responses"] += 1
        elif not held_out.isdisjoint(conversation_keys(pair.conversation)):
            dropped["in_evaluation"] += 1
        elif pair.id in cleaned:
            dropped["duplicate"] += 1
        else:
            cleaned[pair.id] = pair
    return CleanPreferences(list(cleaned.values()), dropped)


def encode_preference(chat: ChatFormat, preference: Preference) -> EncodedPair:
    """Return the token ids of a pair, formatted with the model's chat template.

    Raises:
        DataError: A response has no token, or both are the same.
    """
    chosen = continued_turn(
        chat, preference.conversation, preference.chosen, prefill=preference.prefill or "", tools=preference.tools
    )
    rejected = continued_turn(
        chat,
        preference.conversation,
        preference.rejected,
        prefill=preference.prefill or "",
        tools=preference.tools,
        closed=preference.rejected_ends,
    )
    if chosen is None or rejected is None:
        raise DataError(f"pair {preference.id}: expected responses of at least one token, got none; drop the pair")
    return _validate_pair(
        EncodedPair(
            preference.id,
            tuple(chosen.prompt_ids),
            tuple(chosen.response_ids),
            tuple(rejected.prompt_ids),
            tuple(rejected.response_ids),
        )
    )


def triple_pair(triple: EncodedTriple) -> EncodedPair:
    """Return a triple as a pair: the safe response is chosen, the harmful one rejected.

    Source: arXiv 2407.09121, section 4 (DPO as a baseline: chosen r, rejected r-hat).

    Raises:
        DataError: The two responses are the same.
    """
    return _validate_pair(
        EncodedPair(
            triple.id,
            triple.prompt_ids,
            triple.safe_ids,
            triple.harmful_prompt_ids,
            (*triple.harmful_ids, *triple.closing_ids),
        ),
        num_closing=len(triple.closing_ids),
    )


def _validate_pair(pair: EncodedPair, *, num_closing: int = 0) -> EncodedPair:
    """Return the pair after validation; an empty response or two equal ones are an error."""
    chosen, rejected = pair.chosen_prompt_ids + pair.chosen_ids, pair.rejected_prompt_ids + pair.rejected_ids
    if min(len(pair.chosen_ids), len(pair.rejected_ids)) <= num_closing or chosen == rejected:
        raise DataError(f"pair {pair.id}: expected two different responses of at least one token; drop the pair")
    return pair


def cut_pair(pair: EncodedPair, *, max_length: int) -> EncodedPair:
    """Return the pair with both sides truncated to `max_length`, and both prompts to the same length.

    The rejected response is truncated first, down to half the length, then the middle of the prompt, and only then the
    end of the chosen response, so that the start of a refusal always remains.

    >>> pair = EncodedPair("a", (1,) * 20, (5, 6), (1,) * 20, (7,) * 30)
    >>> cut = cut_pair(pair, max_length=32)
    >>> len(cut.chosen_prompt_ids), len(cut.chosen_ids), len(cut.rejected_prompt_ids), len(cut.rejected_ids)
    (16, 2, 16, 16)
    """
    longest = max(len(pair.chosen_ids), min(len(pair.rejected_ids), max_length // 2))
    room = max(MIN_PROMPT_TOKENS, max_length - longest)
    prompts: list[Sequence[int]] = [cut_middle(ids, room) for ids in (pair.chosen_prompt_ids, pair.rejected_prompt_ids)]
    return EncodedPair(
        pair.id,
        tuple(prompts[0]),
        pair.chosen_ids[: max_length - len(prompts[0])],
        tuple(prompts[1]),
        pair.rejected_ids[: max_length - len(prompts[1])],
    )
