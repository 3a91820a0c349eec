"""Completion rows: a benign answer is broken off by a refusal whose first word is read and whose rest is learned.

A completion row reads q + the first k tokens of a benign answer a + the first word of a refusal s, and learns the rest
of the refusal. It teaches how a refusal goes on once it has begun, in any format, and never to begin one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from derta.chat import ChatFormat, RefusalTokens, answer_content, content_text, encode_after_text, positions_after_space
from derta.data.encoding import EncodedExample
from derta.data.train_row import IGNORE, TrainRow
from derta.data.truncation import MIN_PROMPT_TOKENS, cut_middle
from derta.records import Triple


@dataclass(frozen=True, slots=True)
class EncodedRefusal:
    """Token ids of a triple's safe response after text, with the closing ids.

    Attributes:
        spaced_ids: The response after text.
        bare_ids: The response after white space.
        spaced_word: Number of tokens of `spaced_ids` that hold the refusal word.
        bare_word: The same of `bare_ids`.
    """

    spaced_ids: tuple[int, ...]
    bare_ids: tuple[int, ...]
    spaced_word: int
    bare_word: int

    @property
    def longest(self) -> int:
        """Number of tokens of the longer form."""
        return max(len(self.spaced_ids), len(self.bare_ids))


@dataclass(frozen=True, slots=True)
class BenignAnswer:
    """Token ids of a benign answer that can be broken off.

    Attributes:
        prompt_ids: Everything before the answer: of a conversation its prompt and earlier turns, of a raw text its
            first token.
        answer_ids: The answer without its closing ids.
        bare_positions: Positions before which the text of the answer ends in white space.
    """

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    bare_positions: frozenset[int]


@dataclass(frozen=True, slots=True)
class AnswerPool:
    """The benign answers that completion rows are drawn from; `longest` is the most tokens of a prompt and answer."""

    answers: tuple[BenignAnswer, ...]
    longest: int = field(init=False)

    def __post_init__(self) -> None:
        longest = max(len(one.prompt_ids) + len(one.answer_ids) for one in self.answers)
        object.__setattr__(self, "longest", longest)


@dataclass(frozen=True, slots=True)
class Completion:
    """Source of a triple's completion rows: its refusal, and the pool from which each draw takes a benign answer."""

    id: str
    refusal: EncodedRefusal
    pool: AnswerPool


def encode_refusal(chat: ChatFormat, triple: Triple, *, refusals: RefusalTokens) -> EncodedRefusal | None:
    """Return the token ids of a triple's safe response as the continuation of an answer; None without a refusal word.

    The word that is read is the refusal word that opens the response, whole, even if it is several tokens: the row
    teaches what follows once a refusal has begun. A response that opens with none of the words, such as "I cannot", has
    no completion rows: they would teach to begin a refusal after an ordinary word.
    """
    content = answer_content(chat, triple.conversation, triple.safe, tools=triple.tools).lstrip()
    opening = refusals.opening(content)
    if opening is None:
        return None
    num_characters = len(refusals.words[opening])
    spaced, bare = (
        encode_after_text(chat, content_text(content), spaced=spaced, closed=True) for spaced in (True, False)
    )
    return EncodedRefusal(
        spaced_ids=tuple(spaced.ids),
        bare_ids=tuple(bare.ids),
        spaced_word=_tokens_of(num_characters, spaced.ends),
        bare_word=_tokens_of(num_characters, bare.ends),
    )


def _tokens_of(num_characters: int, ends: Sequence[int]) -> int:
    """Return how many tokens hold the first characters of a text, all bytes of the last of them included.

    >>> _tokens_of(5, [0, 3, 5, 6, 9]), _tokens_of(5, [5, 5, 6]), _tokens_of(5, [6, 9])
    (3, 2, 1)
    """
    return bisect_right(ends, ends[bisect_left(ends, num_characters)])


def benign_answer(chat: ChatFormat, rows: Sequence[EncodedExample], *, is_text: bool = False) -> BenignAnswer:
    """Return the last answer of an example, or its raw text, from its encoded rows (`encode_example`).

    Args:
        chat: The format of the rows.
        rows: The rows of one example; the first has its last answer.
        is_text: The example is a raw text, which ends with EOS instead of the closing ids.
    """
    row = rows[0]
    learned = row.learned or (True,) * len(row.response_ids)
    start = len(learned) - len(list(takewhile(bool, reversed(learned))))
    closing = row.response_ids[-1:] if is_text else chat.closing_ids
    answer = row.response_ids[start:]
    matching = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(answer), reversed(closing), strict=False))
    answer = answer[: len(answer) - len(list(matching))]
    return BenignAnswer(
        prompt_ids=(*row.prompt_ids, *row.response_ids[:start]),
        answer_ids=answer,
        bare_positions=frozenset(positions_after_space(chat.tokenizer, answer)),
    )


def completion_row(refusal: EncodedRefusal, answer: BenignAnswer, *, name: str, k: int, max_length: int) -> TrainRow:
    """Return a row that reads the first k tokens of a benign answer and a refusal's first word, and learns its rest.

    With w tokens of the word, L = - sum_{i>w} log P(s_i | q, a_<=k, s_<i). Neither the answer nor the word has labels,
    so the row never teaches to begin a refusal. Truncation removes tokens of the answer first, down to one, then of the
    middle of the prompt, and then of the end of the refusal.

    >>> refusal = EncodedRefusal((5, 6, 7), (8, 6, 7), spaced_word=1, bare_word=1)
    >>> answer = BenignAnswer((1, 2), (3, 4), frozenset({2}))
    >>> row = completion_row(refusal, answer, name="t", k=1, max_length=32)
    >>> row.input_ids, row.labels
    ([1, 2, 3, 5, 6, 7], [-100, -100, -100, -100, 6, 7])
    """
    k = min(k, longest_start(answer, refusal, max_length=max_length))
    is_bare = k in answer.bare_positions
    refusal_ids = refusal.bare_ids if is_bare else refusal.spaced_ids
    prompt_ids = cut_middle(answer.prompt_ids, max(MIN_PROMPT_TOKENS, max_length - k - len(refusal_ids)))
    word = refusal.bare_word if is_bare else refusal.spaced_word
    read_ids = [*prompt_ids, *answer.answer_ids[:k], *refusal_ids[:word]]
    learned_ids = refusal_ids[word : word + max_length - len(read_ids)]
    return TrainRow(name, "completion", [*read_ids, *learned_ids], [IGNORE] * len(read_ids) + list(learned_ids))


def longest_start(answer: BenignAnswer, refusal: EncodedRefusal, *, max_length: int) -> int:
    """Return how many tokens of a benign answer a row may read before a refusal."""
    return max(1, min(len(answer.answer_ids), max_length - len(answer.prompt_ids) - refusal.longest))
