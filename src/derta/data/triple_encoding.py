"""Tokenization of triples: both responses, and the valid refusal tokens at each position of harmful text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from derta.chat import (
    ChatFormat,
    RefusalTokens,
    Text,
    Turn,
    answer_content,
    answer_head,
    content_text,
    encode_continuation,
    encode_response,
    encode_turn,
    join_texts,
    positions_after_space,
    thought_head,
    turn_span,
)
from derta.data.earlier_turns import split_triple
from derta.data.encoding import has_tokens
from derta.errors import DataError, ModelError
from derta.records import Place, Triple


@dataclass(frozen=True, slots=True)
class EncodedTriple:
    """Token ids of a triple.

    Attributes:
        id: Id of the triple.
        prompt_ids: Prompt before the safe response.
        harmful_prompt_ids: Prompt before the harmful response. It differs from `prompt_ids` if the template ends in
            white space that is merged into the first token of one response and not of the other.
        safe_ids: Safe response after the prompt. All three forms of the safe response end with the closing ids.
        safe_spaced_ids: Safe response after text.
        safe_bare_ids: Safe response after white space.
        harmful_ids: Harmful response, without closing ids.
        closing_ids: Tokens that end a response.
        refusal_ids: `refusal_ids[t]` are the valid refusal tokens at position t of the harmful response: the first
            token of each word there. The last entry is for reference rows: their label at all positions.
        bare_positions: Positions of the harmful response before which the text ends in white space.
        word_cuts: `word_cuts[n]` is the number of tokens in the first n words of the harmful response.
        earlier_refusals: The valid refusal tokens at each position of `harmful_prompt_ids`: none outside of harmful
            earlier turns. Empty if there are no such turns.
        split: The same triple with the start of its harmful response in an earlier turn (`split_triple`).
        in_thought: The same triple with its harmful response in the thought, if either place is drawn.
    """

    id: str
    prompt_ids: tuple[int, ...]
    harmful_prompt_ids: tuple[int, ...]
    safe_ids: tuple[int, ...]
    safe_spaced_ids: tuple[int, ...]
    safe_bare_ids: tuple[int, ...]
    harmful_ids: tuple[int, ...]
    closing_ids: tuple[int, ...]
    refusal_ids: tuple[tuple[int, ...], ...]
    bare_positions: frozenset[int]
    word_cuts: tuple[int, ...]
    earlier_refusals: tuple[tuple[int, ...], ...] = ()
    split: EncodedTriple | None = None
    in_thought: EncodedTriple | None = None


def encode_triple(
    chat: ChatFormat,
    triple: Triple,
    *,
    refusals: RefusalTokens,
    follow_ups: Sequence[str] = (),
    refuse_in: Literal["answer", "thought", "both"] = "answer",
) -> EncodedTriple:
    """Return the token ids of a triple's responses, and the valid refusal tokens at each position of harmful text.

    With `follow_ups`, the triple is encoded as split over two turns, too.

    Raises:
        DataError: A response has no token.
        ModelError: The chat template refuses the conversation, or rewrites a harmful turn; the message names the
            triple.
    """
    first: Place = "thought" if refuse_in == "thought" else "answer"
    try:
        encoded = _encode_triple(chat, triple, refusals=refusals, place=first)
        later = split_triple(triple, follow_ups) if follow_ups else None
        split = later and replace(_encode_triple(chat, later, refusals=refusals, place=first), id=triple.id)
        in_thought = None
        if refuse_in == "both":
            in_thought = _encode_triple(chat, triple, refusals=refusals, place="thought")
    except ModelError as error:
        raise ModelError(f"triple {triple.id} ({triple.source or 'no source'}): {error}; or drop the row") from error
    return replace(encoded, split=split, in_thought=in_thought)


def _encode_triple(chat: ChatFormat, triple: Triple, *, refusals: RefusalTokens, place: Place) -> EncodedTriple:
    head = _head(chat, triple, place)
    content = answer_content(chat, triple.conversation, triple.safe, tools=triple.tools)
    safe = encode_response(chat, head, _safe_text(chat, content, place), closed=True)
    harmful_text = answer_content(chat, triple.conversation, triple.harmful, tools=triple.tools)
    harmful = encode_response(chat, head, harmful_text)
    if not has_tokens(chat, content, num_closed=len(safe.response_ids)) or not harmful.response_ids:
        raise DataError(f"triple {triple.id}: expected responses of at least one token, got none; drop the row")
    safe_text = _safe_text(chat, content.lstrip(), place)
    safe_spaced_ids = encode_continuation(chat, safe_text, spaced=True, closed=True)
    safe_bare_ids = encode_continuation(chat, safe_text, spaced=False, closed=True)
    opening = refusals.opening(content.lstrip())
    bare_ids = _first_ids(refusals.bare, opening, safe_ids=safe_bare_ids)
    spaced_ids = _first_ids(refusals.spaced, opening, safe_ids=safe_spaced_ids)
    opening = refusals.opening(content)  # None if it starts with white space
    turns = [safe if i == opening else encode_response(chat, head, word) for i, word in enumerate(refusals.words)]
    start_ids = _first_ids_at_start(turns, bare_ids, prompt_ids=harmful.prompt_ids)
    bare_positions = positions_after_space(chat.tokenizer, harmful.response_ids)
    places = range(1, len(harmful.response_ids))
    return EncodedTriple(
        id=triple.id,
        prompt_ids=tuple(safe.prompt_ids),
        harmful_prompt_ids=tuple(harmful.prompt_ids),
        safe_ids=tuple(safe.response_ids),
        safe_spaced_ids=tuple(safe_spaced_ids),
        safe_bare_ids=tuple(safe_bare_ids),
        harmful_ids=tuple(harmful.response_ids),
        closing_ids=chat.closing_ids,
        refusal_ids=(start_ids, *(bare_ids if t in bare_positions else spaced_ids for t in places), refusals.single),
        bare_positions=frozenset(bare_positions),
        word_cuts=tuple(_word_cuts(harmful_text, harmful.response_ends)),
        earlier_refusals=_earlier_refusals(chat, triple, refusals, prompt_ids=harmful.prompt_ids),
    )


def _head(chat: ChatFormat, triple: Triple, place: Place) -> Text:
    """Return the text before the responses: up to the answer, or up to the thought of a model that thinks."""
    head_of = answer_head if place == "answer" else thought_head
    return head_of(chat, triple.conversation, tools=triple.tools)


def _safe_text(chat: ChatFormat, content: str, place: Place) -> Text:
    """Return the safe response; in a thought it ends the thought, and is the answer after it, too."""
    if place == "answer" or chat.thought is None:
        return content_text(content)
    return join_texts(content_text(content), Text(chat.thought.close), content_text(content.strip()))


def _first_ids(
    forms: Sequence[Sequence[int]], opening: int | None = None, *, safe_ids: Sequence[int] = ()
) -> tuple[int, ...]:
    """Return the first token of each refusal word at a place, given the ids of words and of the safe response there.

    For the word that opens the safe response it is the first token of the response, so that RTO and safe rows agree.
    """
    return tuple((safe_ids if i == opening else form)[0] for i, form in enumerate(forms))


def _earlier_refusals(
    chat: ChatFormat, triple: Triple, refusals: RefusalTokens, *, prompt_ids: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Return the valid refusal tokens at each position of the prompt, none outside of harmful turns."""
    targets: list[tuple[int, ...]] = [()] * len(prompt_ids)
    bare_ids, spaced_ids = _first_ids(refusals.bare), _first_ids(refusals.spaced)
    for index in triple.harmful_turns:
        span = turn_span(chat, triple.conversation, index, tools=triple.tools)
        openings = [_turn_with(chat, triple, index, word) for word in refusals.words]
        bare_positions = positions_after_space(chat.tokenizer, prompt_ids[span.start : span.stop])
        for t, place in enumerate(span):
            targets[place] = bare_ids if t in bare_positions else spaced_ids
        targets[span.start] = _first_ids_at_start(openings, bare_ids, prompt_ids=prompt_ids[: span.start])
    if targets:
        targets[0] = ()  # it has no context to predict it from
    return tuple(targets) if triple.harmful_turns else ()


def _turn_with(chat: ChatFormat, triple: Triple, index: int, text: str) -> Turn:
    """Return the token ids before and of the assistant message `index`, with this text instead of its own."""
    messages = triple.conversation
    changed = [*messages[:index], messages[index].model_copy(update={"content": text}), *messages[index + 1 :]]
    span = turn_span(chat, changed, index, tools=triple.tools)
    ids = encode_turn(chat, changed, text, tools=triple.tools).prompt_ids
    return Turn(ids[: span.start], ids[span.start : span.stop], [])


def _first_ids_at_start(
    turns: Sequence[Turn], bare_ids: Sequence[int], *, prompt_ids: Sequence[int]
) -> tuple[int, ...]:
    """Return the first token of each refusal word right after these prompt ids; it may include the prompt's last blank.

    If the prompt ids contain this blank as a token, the word is bare. `turns` have one response that starts with each
    word.
    """
    return tuple(
        turn.response_ids[0] if turn.prompt_ids == prompt_ids else bare
        for turn, bare in zip(turns, bare_ids, strict=True)
    )


def _word_cuts(text: str, ends: Sequence[int]) -> list[int]:
    """Return the number of tokens in the first n words, for n = 0 … all; words are split as in the released code.

    >>> _word_cuts("a bc d", [1, 3, 4, 6])
    [0, 1, 3, 4]
    """
    cuts = [0]
    end = -1
    for word in text.split(" "):
        end += len(word) + 1
        cuts.append(bisect_right(ends, end))
    return cuts
