"""Continuations of a conversation, token by token, for `derta explore`: refusal probabilities and alternatives."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from derta.errors import EngineError, escape_hidden
from derta.messages import Message, Record, Text
from derta.records import Decoding, Prompt, StopReason

if TYPE_CHECKING:
    from derta.engines.hf_engine import HfEngine
    from derta.engines.positions import PositionScores

ALTERNATIVES = 8
"""Number of likeliest tokens at each position."""


class Question(Record):
    """A conversation whose last message is answered, and the settings of decoding.

    Attributes:
        messages: The conversation; the last message is not the assistant's.
        prefill: Start of the answer, which the model continues.
        banned: Texts that the reply may not contain, with and without a space before them, such as refusal words.
        threshold: Probability of the refusal tokens from which on one of them is forced; None: none is.
        max_new_tokens: Maximum number of tokens after the prefill.
    """

    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    prefill: str = ""
    banned: tuple[Text, ...] = ()
    threshold: float | None = Field(default=None, gt=0, le=1)
    max_new_tokens: int = Field(ge=1, le=4096)

    @model_validator(mode="after")
    def _ends_with_a_request(self) -> Question:
        if self.messages[-1].role == "assistant":
            raise ValueError("expected a message of the user at the end; put the start of the answer into the prefill")
        if not self.messages[-1].content.strip():
            raise ValueError("expected a text in the last message, got none; type a request")
        return self

    @property
    def prompt(self) -> Prompt:
        """The prompt that an engine continues."""
        return Prompt(
            id="conversation",
            request_id="conversation",
            attack="explore",
            messages=self.messages,
            prefill=self.prefill or None,
            decoding=Decoding(banned=self.banned) if self.banned else None,
        )


class Alternative(Record):
    """A possible next token: its text, its probability, and whether it would end the reply."""

    text: str
    visible: str
    probability: float
    ends: bool


class Position(Record):
    """A token of the answer, and the distribution that it was chosen from.

    Attributes:
        text: The token's characters; empty after the last token, and where it shares its character with the one before.
        visible: The text with hidden characters replaced by their code points.
        refusal: Summed probability of the first tokens of the refusal words.
        probability: Probability of the token; None after the last one.
        greedy: Whether the token is the most likely one. A ban or a threshold may choose another.
        alternatives: The likeliest tokens, the most likely first.
    """

    text: str
    visible: str
    refusal: float
    probability: float | None
    greedy: bool
    alternatives: tuple[Alternative, ...]


class Continuation(Record):
    """The answer of a model to a question.

    Attributes:
        positions: The tokens of the prefill and of the reply, and one position after the last token.
        prefilled: Number of tokens of the prefill.
        stop_reason: `eos`, or `length` at the maximum number of tokens.
    """

    positions: tuple[Position, ...]
    prefilled: int
    stop_reason: StopReason

    @property
    def reply(self) -> str:
        """The text after the prefill."""
        return "".join(one.text for one in self.positions[self.prefilled :])


class StoppedError(EngineError):
    """A generation that its caller has stopped."""


def continue_conversation(
    engine: HfEngine, question: Question, *, stopped: Callable[[], bool] = lambda: False
) -> Continuation:
    """Continue a conversation greedily, and score each position of the answer, those of the prefill too.

    The refusal probability is that of decoding with a threshold: a refusal word of several tokens counts by its first.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> from derta.demo.run import write_example
    >>> from derta.engines import load_engine
    >>> engine = load_engine(write_example(Path(mkdtemp())).parent / "base", device="cpu")
    >>> message = Message(role="user", content="how do i make the bread ?")
    >>> answer = continue_conversation(engine, Question(messages=(message,), prefill="take the", max_new_tokens=3))
    >>> len(answer.positions), answer.prefilled, "".join(one.text for one in answer.positions[:2])
    (6, 2, ' take the')

    Args:
        engine: The model.
        question: The conversation and the settings of decoding.
        stopped: Called before each token; generation stops when it returns True.

    Raises:
        StoppedError: it was stopped.
        ModelError: the conversation is too long for the model, its template refuses it, or it cannot encode a text.
        EngineError: the logits are NaN or infinite.
    """
    from derta.chat import encode_after, encode_prompt, refusal_tokens
    from derta.engines.batching import NonFiniteLogitsError
    from derta.engines.positions import position_scores
    from derta.engines.threshold import RefusalForcing

    prompt, refusal_ids = question.prompt, refusal_tokens(engine.chat, engine.refusal_words).ids
    forcing = None if question.threshold is None else RefusalForcing(refusal_ids, question.threshold)
    with _stopping(engine.model, stopped):
        [reply] = replace(engine, forcing=forcing).generate([prompt], max_new_tokens=question.max_new_tokens)
    prompt_ids, prefill_ids = encode_prompt(engine.chat, prompt), list[int]()
    if prompt.prefill:
        prompt_ids, prefill_ids, _ = encode_after(
            engine.chat, prompt.model_copy(update={"prefill": None}), prompt.prefill
        )
    ids = [*prefill_ids, *(reply.token_ids or ())]
    try:
        scores = position_scores(engine.model, prompt_ids, ids, refusal_ids=refusal_ids, top=ALTERNATIVES)
    except NonFiniteLogitsError as error:
        raise EngineError("expected finite logits, got NaN or infinity; set dtype to float32 or bfloat16") from error
    return Continuation(
        positions=_positions(engine, ids, scores), prefilled=len(prefill_ids), stop_reason=reply.stop_reason
    )


@contextmanager
def _stopping(model: Any, stopped: Callable[[], bool]) -> Generator[None]:
    """Raise an error in the model's next pass when `stopped` returns True, while the block runs."""

    def check(*_: object) -> None:
        if stopped():
            raise StoppedError("the generation was stopped")

    hook = model.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def _positions(engine: HfEngine, ids: Sequence[int], scores: Sequence[PositionScores]) -> tuple[Position, ...]:
    from derta.engines.token_io import detokenize

    text, starts = detokenize(engine.chat.tokenizer, ids)
    ends = [*starts[1:], len(text)] if starts else []
    pieces = [*(text[start:end] for start, end in zip(starts, ends, strict=True)), ""]
    return tuple(
        Position(
            text=piece,
            visible=escape_hidden(piece),
            refusal=score.refusal,
            probability=score.chosen,
            greedy=token is None or token == score.top[0].token_id,
            alternatives=_alternatives(engine, score),
        )
        for piece, token, score in zip(pieces, [*ids, None], scores, strict=True)
    )


def _alternatives(engine: HfEngine, score: PositionScores) -> tuple[Alternative, ...]:
    from derta.chat import decode_continuation
    from derta.engines.hf_engine import stop_tokens

    stops = stop_tokens(engine.model, engine.chat)
    texts = [decode_continuation(engine.chat.tokenizer, [one.token_id]) for one in score.top]
    return tuple(
        Alternative(text=text, visible=escape_hidden(text), probability=one.probability, ends=one.token_id in stops)
        for text, one in zip(texts, score.top, strict=True)
    )
