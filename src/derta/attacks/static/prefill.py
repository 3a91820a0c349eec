"""Prefill attack: the reply starts with part of a harmful answer, and the model may still refuse."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from math import ceil
from pathlib import Path
from random import Random

from derta.attacks.base import Attack, per_request
from derta.attacks.building import factory
from derta.attacks.prompts import craft_prompt
from derta.errors import RecipeError
from derta.records import Place, PrefillDepth, Prompt, Request

DEPTHS = ("0%", "1%", "5%", "10%", "25%", "50%", "100%")
THOUGHT_DEPTHS = ("10%", "50%", "100%")
_DEPTH = re.compile(r"(\d+(?:\.\d+)?)(%|t)", re.ASCII)
_WORD = re.compile(r"\S+")

TokenEnds = Callable[[str], list[int]]
"""Function from a text to the end offset, in characters, of each of its tokens."""


def depth_name(depth: PrefillDepth) -> str:
    """Format a prefill depth as a prompt's variant: `50%` (of the words) or `5t` (tokens)."""
    return f"{Decimal(str(depth.amount)).normalize():f}{'%' if depth.unit == '%' else 't'}"


def parse_depth(text: str) -> PrefillDepth:
    """Parse a prefill depth in the format `50%` (of the words) or `5t` (tokens).

    >>> parse_depth("50.0%"), depth_name(parse_depth("5t"))
    (PrefillDepth(amount=50.0, unit='%'), '5t')

    Raises:
        RecipeError: another format, more than 100 %, or a fraction of a token.
    """
    match = _DEPTH.fullmatch(text.strip())
    if match:
        amount = float(match[1])
        if match[2] == "%" and amount <= 100:
            return PrefillDepth(amount=amount, unit="%")
        if match[2] == "t" and amount.is_integer():
            return PrefillDepth(amount=amount, unit="tokens")
    raise RecipeError(
        f"prefill: expected depths such as '50%' (of the answer's words, at most 100%) or '5t' (tokens), got {text!r}"
    )


def parse_depths(texts: Sequence[str]) -> list[PrefillDepth]:
    """Parse several prefill depths.

    Raises:
        RecipeError: the list is empty or has duplicates, or a depth is invalid.
    """
    depths = [parse_depth(text) for text in texts]
    names = [depth_name(depth) for depth in depths]
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"prefill: expected one or more depths, each once, got {list(texts)}")
    return depths


def cut(answer: str, depth: PrefillDepth, *, token_ends: TokenEnds | None = None) -> str:
    """Return the first part of an answer. A percentage counts words, rounded up, and never splits a word.

    White space around the answer is stripped, because the chat template ends directly before the first letter. Text
    without spaces is one word; use depths in tokens for such answers. If the answer has fewer tokens than the depth,
    return all of it.

    >>> cut("Mix the flour with water.", parse_depth("50%"))
    'Mix the flour'
    >>> cut("Mix the flour.", parse_depth("1%")), cut("Mix the flour.", parse_depth("0%"))
    ('Mix', '')

    Raises:
        RecipeError: the depth is in tokens, and `token_ends` is None.
    """
    answer = answer.strip()
    if depth.unit == "%":
        ends = [match.end() for match in _WORD.finditer(answer)]
        count = ceil(Decimal(str(depth.amount)) * len(ends) / 100)  # exact: 7% of 100 words are 7
    elif token_ends is None:
        raise RecipeError(
            f"prefill: depth {depth_name(depth)!r} counts tokens, but there is no tokenizer; set `tokenizer` to a "
            "model's folder or tokenizer.json, or give depths in %"
        )
    else:
        ends = token_ends(answer)
        count = min(int(depth.amount), len(ends))
    return answer[: ends[count - 1]] if count else ""


def read_token_ends(path: Path) -> TokenEnds:
    """Load a tokenizer from a `tokenizer.json` or a model folder, and return its `TokenEnds` (no special tokens).

    Raises:
        RecipeError: the file is missing, or is not a tokenizer.
    """
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the tokenizers library raises no narrower class
        raise RecipeError(
            f"prefill: expected a tokenizer.json or a model folder that contains one, got {str(path)!r} ({error})"
        ) from error

    def token_ends(text: str) -> list[int]:
        return [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]

    return token_ends


@factory
def prefill(*, depths: tuple[str, ...] = DEPTHS, tokenizer: str | Path | None = None) -> Attack:
    """Prompt with the request, and prefill the reply with part of its `harmful` answer, once per depth.

    A percentage counts words, so that all models under comparison have the same input text. At `100%` the prefill is
    the whole answer: the reply after it can only show whether the model still refuses.

    >>> request = Request(id="7", text="How is bread made?", harmful="Mix flour and water, then bake.")
    >>> [p.prefill for p in prefill(depths=("0%", "50%")).craft([request])]
    [None, 'Mix flour and']

    Args:
        depths: Prefill depths: `0%` to `100%` of the words, or a number of tokens such as `5t`.
        tokenizer: The model folder or `tokenizer.json` for depths in tokens. Only the answer's tokens count.

    Raises:
        RecipeError: a depth is invalid, or is in tokens without `tokenizer`.
        DataError: (from `craft`) a request has no harmful answer.

    Source: the paper's analysis of 0, 50 and 100 % of a harmful response.
    """
    return _prefills("prefill", depths, tokenizer=tokenizer, place="answer")


@factory
def thought_prefill(*, depths: tuple[str, ...] = THOUGHT_DEPTHS, tokenizer: str | Path | None = None) -> Attack:
    """Prompt with the request, and prefill the thought of a reasoning model with part of its `harmful` answer.

    The model continues the thought, may close it, and answers; judges see the answer.

    >>> request = Request(id="7", text="How is bread made?", harmful="Mix flour and water, then bake.")
    >>> [(p.prefill, p.prefill_in) for p in thought_prefill(depths=("50%",)).craft([request])]
    [('Mix flour and', 'thought')]

    Args:
        depths: Prefill depths, as for `prefill`.
        tokenizer: The model folder or `tokenizer.json` for depths in tokens.

    Raises:
        RecipeError: a depth is invalid, or is in tokens without `tokenizer`.
        DataError: (from `craft`) a request has no harmful answer.
        ModelError: (from an engine) the chat template opens no thought.
    """
    return _prefills("thought_prefill", depths, tokenizer=tokenizer, place="thought")


def _prefills(attack: str, depths: tuple[str, ...], *, tokenizer: str | Path | None, place: Place) -> Attack:
    """Return the attack that prefills a part of the assistant's turn."""
    parsed = parse_depths(depths)
    token_ends = read_token_ends(Path(tokenizer)) if tokenizer else None
    for depth in parsed:
        cut("any answer", depth, token_ends=token_ends)

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        for depth in parsed:
            start = cut(request.harmful or "", depth, token_ends=token_ends) or None
            yield craft_prompt(
                request,
                attack=attack,
                variant=depth_name(depth),
                messages=request.conversation,
                prefill=start,
                prefill_in=place if start else "answer",
                depth=depth,
            )

    return per_request(attack, craft_one, needs_answers=True)
