"""Prefill: the assistant's turn begins with a part of a harmful answer, and the model may still refuse."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from math import ceil
from pathlib import Path
from random import Random

from derta.attacks.base import Attack, per_request
from derta.attacks.building import factory
from derta.attacks.prompts import craft_prompt, user
from derta.errors import RecipeError
from derta.records import PrefillDepth, Prompt, Request

DEPTHS = ("0%", "1%", "5%", "10%", "25%", "50%", "100%")
_DEPTH = re.compile(r"(\d+(?:\.\d+)?)(%|t)", re.ASCII)
_WORD = re.compile(r"\S+")

TokenEnds = Callable[[str], list[int]]
"""The character after each token of a text."""


def depth_name(depth: PrefillDepth) -> str:
    """Return a depth as the variant of a prompt names it: `50%` of the words, or `5t` for tokens."""
    return f"{Decimal(str(depth.amount)).normalize():f}{'%' if depth.unit == '%' else 't'}"


def parse_depth(text: str) -> PrefillDepth:
    """Parse `50%` or `5t`.

    >>> parse_depth("50.0%"), depth_name(parse_depth("5t"))
    (PrefillDepth(amount=50.0, unit='%'), '5t')

    Raises:
        RecipeError: another form, more than 100 %, or a part of a token.
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
    """Parse several depths, each once.

    Raises:
        RecipeError: none, or one twice.
    """
    depths = [parse_depth(text) for text in texts]
    names = [depth_name(depth) for depth in depths]
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"prefill: expected one or more depths, each once, got {list(texts)}")
    return depths


def cut(answer: str, depth: PrefillDepth, *, token_ends: TokenEnds | None = None) -> str:
    """Return the start of an answer. A percentage counts words, rounded up, and never cuts inside a word.

    White space around the answer is stripped: the template ends right before the answer's first letter. Text
    written without spaces is one word; give such answers depths in tokens. An answer shorter than the depth in tokens
    is given whole.

    >>> cut("Mix the flour with water.", parse_depth("50%"))
    'Mix the flour'
    >>> cut("Mix the flour.", parse_depth("1%")), cut("Mix the flour.", parse_depth("0%"))
    ('Mix', '')

    Raises:
        RecipeError: a depth in tokens and nothing that counts tokens.
    """
    answer = answer.strip()
    if depth.unit == "%":
        ends = [match.end() for match in _WORD.finditer(answer)]
        count = ceil(Decimal(str(depth.amount)) * len(ends) / 100)  # exact: 7% of 100 words are 7
    elif token_ends is None:
        raise RecipeError(
            f"prefill: depth {depth_name(depth)!r} counts tokens and no tokenizer was given; set `tokenizer` to a "
            "model's folder or tokenizer.json, or give depths in %"
        )
    else:
        ends = token_ends(answer)
        count = min(int(depth.amount), len(ends))
    return answer[: ends[count - 1]] if count else ""


def read_token_ends(path: Path) -> TokenEnds:
    """Count tokens as a `tokenizer.json`, or the model folder that holds one, does; no special tokens are added.

    Raises:
        RecipeError: no such file, or no tokenizer in it.
    """
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the tokenizers library raises no narrower class
        raise RecipeError(
            f"prefill: expected a tokenizer.json or a model folder that holds one, got {str(path)!r} ({error})"
        ) from error

    def token_ends(text: str) -> list[int]:
        return [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]

    return token_ends


@factory
def prefill(*, depths: tuple[str, ...] = DEPTHS, tokenizer: str | Path | None = None) -> Attack:
    """Ask plainly and begin the assistant's turn with a part of the request's `harmful` answer, at every depth.

    A percentage is of words, so that every model under comparison is given the same text. The reply to `100%` comes
    after the whole answer was given: there, only a refusal is left to be seen.

    >>> request = Request(id="7", text="How is bread made?", harmful="Mix flour and water, then bake.")
    >>> [p.prefill for p in prefill(depths=("0%", "50%")).craft([request])]
    [None, 'Mix flour and']

    Args:
        depths: `0%` to `100%`, or numbers of tokens as `5t`.
        tokenizer: what counts tokens: a model's folder, or its tokenizer.json. Tokens are counted in the answer alone.

    Raises:
        RecipeError: a depth that cannot be read, or one in tokens without `tokenizer`.
        DataError: (from the attack) a request without a harmful answer.

    Source: the paper's analysis of 0, 50 and 100 % of a harmful response.
    """
    parsed = parse_depths(depths)
    token_ends = read_token_ends(Path(tokenizer)) if tokenizer else None
    for depth in parsed:
        cut("any answer", depth, token_ends=token_ends)

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        for depth in parsed:
            start = cut(request.harmful or "", depth, token_ends=token_ends) or None
            yield craft_prompt(
                request,
                attack="prefill",
                variant=depth_name(depth),
                messages=user(request.text),
                prefill=start,
                depth=depth,
            )

    return per_request("prefill", craft_one, needs_answers=True)
