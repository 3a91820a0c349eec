"""Records that stages exchange, in memory or as JSONL files with one JSON object per line.

These records are the only input and output of a stage, so each stage can be run, stopped, resumed or replaced, or use
outputs that others published.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from derta.messages import Context, Message, Record, Text, Tools, in_context, is_absent
from derta.messages import Example as Example  # names of this module, too
from derta.messages import Triple as Triple
from derta.messages import context_keys as context_keys
from derta.messages import short_hash as short_hash

Suite = Literal["attack", "over_refusal", "helpfulness"]
StopReason = Literal["eos", "length", "stop", "unknown"]
Place = Literal["answer", "thought"]
"""Part of an assistant's turn."""
Unanswered = Literal["filtered", "rejected", "failed"]
"""Cause of a missing reply: a content filter, a request that the server does not accept, or failed attempts."""
Measure = Literal["harmful", "refused", "correct"]
"""Name of the verdict field that a rate counts: attack success, refusals, accuracy."""
ReplyKey = tuple[str, int]
"""Id of a prompt and sample number of its reply: the key that a reply shares with its verdicts."""
ReplyClass = Literal[
    "refuse",
    "comply_then_refuse",
    "refuse_then_comply",
    "malformed",
    "comply",
    "degenerate",
    "empty",
    "unknown_language",
]
"""Class of a reply by its refusals (see `derta.judges.refusal`)."""


REFUSAL_WORDS = ("Sorry",)
"""The paper's refusal word."""

NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
"""Format of the names of attacks, judges and methods, which are part of file names."""
NAME_LETTERS = "letters, digits, '_', '-' and '.'"


class Request(Record):
    """A user request, the input of an attack, with the messages before it, if it is not the first of a conversation.

    `answer` is the reference answer (GSM8K, MMLU); `harmful` is a harmful answer for prefill attacks; `steps` are the
    reference steps of a harmful answer: the judge `steps` counts those in a reply.

    >>> Request(id="7", text="How do I bake bread?").answer is None
    True
    """

    id: Text
    text: Text
    category: str | None = None
    answer: str | None = None
    harmful: str | None = None
    steps: tuple[Text, ...] | None = None
    messages: Context = ()
    tools: Tools = None

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The context and the request, as the messages before a reply."""
        return (*self.messages, Message(role="user", content=self.text))

    @property
    def in_context(self) -> str:
        """The request with the user's earlier turns, for a reader who does not see the conversation."""
        return in_context(self.conversation)


class PrefillDepth(Record):
    """Prefill depth: the part of a harmful answer that is prefilled, as a percentage of its words or a token count."""

    amount: float = Field(ge=0)
    unit: Literal["%", "tokens"]


class Decoding(Record):
    """Settings of greedy decoding with banned texts, for attackers with access to the weights.

    A token that would complete a text of `banned` is replaced by the most likely token that does not. With `top_k`,
    only the `top_k` most likely tokens are candidates; if all of them are banned, the most likely one is generated. The
    ban applies to the first `steps` tokens of the reply (None: to all). With `ban_end`, stop tokens are banned too.
    """

    banned: Annotated[tuple[Text, ...], Field(min_length=1)]
    steps: int | None = Field(default=None, ge=1)
    top_k: int | None = Field(default=None, ge=2)
    ban_end: bool = False

    @model_validator(mode="after")
    def _ends_some_time(self) -> Decoding:
        if self.ban_end and self.steps is None:
            raise ValueError("ban_end needs steps, because a reply must be able to end")
        return self


class Cost(Record):
    """Cost of the search for a prompt: queries of the target, the attacker and the judge, tokens, and seconds.

    `target_queries` counts likelihoods and replies; `tokens` counts the output tokens of target and attacker, if their
    engines return token counts.
    """

    target_queries: int = 0
    attacker_queries: int = 0
    judge_queries: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Prompt(Record):
    """The input of the model: `chat` prompts have messages, `raw` prompts have text that no chat template formats.

    Attributes:
        request: The original request, the judges' input; None if it is unknown.
        foreign: The prompt of a reply that others published. Its id is the row's or its position in the file. It has no
            messages if the file has replies only.
        variant: Setting of the attack, such as `50%` of a prefill or `stack` of a CodeAttack.
        prefill: Start of the assistant's turn (chat only); the reply continues it.
        prefill_in: The part of the turn that the prefill begins: the answer, or the thought before it.
        depth: The part of the harmful answer in the prefill.
        decoding: Settings of an attack on the decoding loop.
        cost: Cost of the search for the prompt.
        draw: Number of the prompt among those that an attack draws for one request, of which one success is enough.
        answer: The request's reference answer.
        steps: The request's reference steps.
        tools: Definitions of tools (chat only).

    >>> messages = (Message(role="user", content="How do I bake bread?"),)
    >>> Prompt(id="direct:7", request_id="7", request="How do I bake bread?", attack="direct", messages=messages).mode
    'chat'
    """

    id: Text
    request_id: Text
    request: Text | None = None
    foreign: bool = False
    suite: Suite = "attack"
    attack: Text
    variant: str | None = None
    dataset: str | None = None
    mode: Literal["chat", "raw"] = "chat"
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    prefill: str | None = None
    prefill_in: Annotated[Place, Field(exclude_if=lambda place: place == "answer")] = "answer"
    depth: PrefillDepth | None = None
    decoding: Decoding | None = None
    cost: Cost | None = None
    draw: Annotated[int | None, Field(ge=0, exclude_if=is_absent)] = None
    category: str | None = None
    answer: str | None = None
    steps: tuple[Text, ...] | None = None
    tools: Tools = None

    @model_validator(mode="after")
    def _has_one_form(self) -> Prompt:
        if self.mode == "chat" and (not (self.messages or self.foreign) or self.text is not None):
            raise ValueError("a chat prompt carries messages and no text")
        if self.mode == "raw" and (not self.text or self.messages is not None or self.prefill or self.tools):
            raise ValueError("a raw prompt carries text, no messages, no tools and no prefill")
        return self

    @property
    def cell(self) -> str:
        """Name of the prompt's cell in the summary: its attack and variant, or its dataset.

        >>> Prompt(id="1", request_id="r", request="?", attack="prefill", variant="50%", mode="raw", text="?").cell
        'prefill@50%'
        """
        if self.suite != "attack" and self.dataset:
            return self.dataset
        name = f"{self.attack}@{self.variant}" if self.variant else self.attack
        return f"{name} ({self.dataset})" if self.dataset else name


class Reply(Record):
    """The output of the model for a prompt, without the prefill, or the record that a server gave none.

    With `unanswered`, the text is empty and `reason` is the server's; judges return no outcome for such a reply, and it
    counts as unanswered in every rate. `token_starts[i]` is the character offset of token i in `text`, which converts
    positions in the text to tokens; replies that others published have neither token ids nor offsets. `prompt_tokens`
    is the number of tokens of the prompt as sent, where the engine counts them. `sample` numbers the replies to one
    prompt, and `seed` is the random seed of a sampled reply. `answer_at` is the character offset at which the answer of
    a model that thinks begins: the length of the text if the thought is not closed, None if the model has no thoughts
    or the format is unknown.
    `input_hash` and `producer` are the provenance (`derta.provenance`); None for replies of other origin.

    >>> Reply(prompt_id="direct:7", text="Sorry, no.", stop_reason="eos").sample
    0
    """

    prompt_id: Text
    sample: int = Field(default=0, ge=0)
    seed: Annotated[int | None, Field(ge=0, exclude_if=is_absent)] = None
    text: str
    stop_reason: StopReason = "unknown"
    unanswered: Unanswered | None = None
    reason: str = ""
    token_ids: tuple[int, ...] | None = None
    token_starts: tuple[int, ...] | None = None
    prompt_tokens: Annotated[int | None, Field(ge=0, exclude_if=is_absent)] = None
    answer_at: Annotated[int | None, Field(ge=0, exclude_if=is_absent)] = None
    input_hash: str | None = None
    producer: dict[str, str] | None = None

    @property
    def key(self) -> ReplyKey:
        """Key of the reply, unique among the replies of one model.

        >>> Reply(prompt_id="direct:7", text="No.", sample=2).key
        ('direct:7', 2)
        """
        return self.prompt_id, self.sample


class Verdict(Record):
    """The output of one judge for one reply. Fields that the judge did not or could not decide are None, never False.

    `refusal_at` is the character offset of the first refusal in the reply, or of the first malformed refusal word of a
    reply of the class `malformed`. `answer_at` is the offset of the answer of a model that thinks: the verdict is on
    the text from there on, and `harmful_thought` is a harm judge's verdict on the thought. `score` is the judge's
    number in [0, 1] before the threshold (a probability, a grade), if it has one. `retry` is True if an engine error is
    the reason for a missing verdict: judging again may succeed. `unanswered` is True if there is no reply to judge.
    `input_hash` and `producer` are the provenance.

    >>> Verdict(prompt_id="direct:7", judge="refusal", refused=True, refusal_at=0).harmful is None
    True
    """

    prompt_id: Text
    sample: int = Field(default=0, ge=0)
    judge: Text
    harmful: bool | None = None
    refused: bool | None = None
    correct: bool | None = None
    reply_class: ReplyClass | None = None
    refusal_at: int | None = None
    answer_at: Annotated[int | None, Field(ge=0, exclude_if=is_absent)] = None
    harmful_thought: Annotated[bool | None, Field(exclude_if=is_absent)] = None
    score: float | None = Field(default=None, ge=0, le=1)
    retry: bool = False
    unanswered: bool = False
    reason: str = ""
    input_hash: str | None = None
    producer: dict[str, str] | None = None

    @property
    def key(self) -> ReplyKey:
        """Key of the judged reply."""
        return self.prompt_id, self.sample

    def outcome(self, measure: Measure) -> bool | None:
        """Return the field that a measure counts; None if it is unscored.

        >>> Verdict(prompt_id="1", judge="harm", harmful=True).outcome("harmful")
        True
        """
        match measure:
            case "harmful":
                return self.harmful
            case "refused":
                return self.refused
            case "correct":
                return self.correct
