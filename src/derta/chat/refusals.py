"""Token ids of refusal words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from derta.chat.decoding import decode_continuation
from derta.chat.encoding import encode_continuation
from derta.chat.logs import warn_once
from derta.chat.templates import ChatFormat
from derta.errors import ModelError
from derta.records import REFUSAL_WORDS


@dataclass(frozen=True, slots=True)
class RefusalTokens:
    """Token ids of each refusal word: `spaced` after text, `bare` after white space or at the start of a response.

    Most words are one token in both forms. The label of a word of several tokens is the first of them, as in the
    responses that start with it.
    """

    words: tuple[str, ...]
    bare: tuple[tuple[int, ...], ...]
    spaced: tuple[tuple[int, ...], ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids that start a refusal, in order, without duplicates."""
        return tuple(dict.fromkeys(form[0] for form in self.bare + self.spaced))

    @property
    def forms(self) -> tuple[tuple[int, ...], ...]:
        """Token ids of the words in both forms, in order; no form starts with another, so probabilities can be added.

        >>> RefusalTokens(("No", "Nope"), bare=((1,), (1, 2)), spaced=((3,), (3, 2))).forms
        ((1,), (3,))
        """
        each = dict.fromkeys(self.bare + self.spaced)
        return tuple(
            form for form in each if not any(form[: len(other)] == other for other in each if len(other) < len(form))
        )

    @property
    def single(self) -> tuple[int, ...]:
        """One token for each word at all places, as in the released code: the bare form, or else one of one token."""
        pairs = zip(self.bare, self.spaced, strict=True)
        return tuple((spaced if len(spaced) == 1 < len(bare) else bare)[0] for bare, spaced in pairs)

    def opening(self, text: str) -> int | None:
        """Return the index of the longest word that the text starts with, or None.

        >>> RefusalTokens(("No", "Nope"), bare=((1,), (1, 2)), spaced=((3,), (3, 2))).opening("Nope, sorry")
        1
        """
        found = [i for i, word in enumerate(self.words) if text.startswith(word)]
        return max(found, key=lambda i: len(self.words[i]), default=None)


def refusal_tokens(chat: ChatFormat, words: Sequence[str] = REFUSAL_WORDS) -> RefusalTokens:
    """Return the token ids of the refusal words; a form of several tokens is logged once.

    Raises:
        ModelError: no word, or the tokenizer cannot encode one.
    """
    if not words:
        raise ModelError("refusal_words: expected at least one word, got none; 'Sorry' is the paper's")
    bare = tuple(_encode_word(chat, word, spaced=False) for word in words)
    spaced = tuple(_encode_word(chat, word, spaced=True) for word in words)
    for word, after_space, after_text in zip(words, bare, spaced, strict=True):
        for form, place in ((after_text, "after text"), (after_space, "after white space")):
            if len(form) > 1:
                first = decode_continuation(chat.tokenizer, form[:1])
                warn_once(
                    f"refusal word {word!r} is {len(form)} tokens {place}: its first token {first!r} is the target "
                    "there"
                )
    return RefusalTokens(tuple(words), bare, spaced)


def _encode_word(chat: ChatFormat, word: str, *, spaced: bool) -> tuple[int, ...]:
    ids = encode_continuation(chat, word, spaced=spaced)
    if not ids or chat.tokenizer.unk_token_id in ids:
        raise ModelError(
            f"refusal_words: expected words that this tokenizer knows, got {word!r}; choose another, as "
            "`refusal_words: [...]`"
        )
    return tuple(ids)
