"""The records that cross a border between stages, one JSON object a line.

Every stage reads and writes these and nothing else, so that each can be run, stopped, resumed,
replaced or fed with outputs published by others.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=False, pattern=r"\S")]
Role = Literal["system", "user", "assistant"]
Suite = Literal["attack", "over_refusal", "helpfulness"]
StopReason = Literal["eos", "length", "stop", "unknown"]
Measure = Literal["harmful", "refused", "correct"]
"""The field of a verdict that a rate counts: attack success, refusals, accuracy."""
ReplyKey = tuple[str, int]
"""The id of a prompt and the number of a sample of its reply: what a reply and its verdicts share."""
ReplyClass = Literal["refuse", "comply_then_refuse", "refuse_then_comply", "comply", "degenerate", "empty"]


REFUSAL_WORDS = ("Sorry",)
"""The paper's."""

NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
"""What attacks, judges and methods may be called: names of files are made of their names."""
NAME_LETTERS = "letters, digits, '_', '-' and '.'"


def short_hash(*parts: str) -> str:
    """Name a text by its content: 16 hex digits, the same on every machine.

    >>> short_hash("a", "b") == short_hash("a", "b") != short_hash("ab")
    True
    """
    return blake2b("\x1f".join(parts).encode(), digest_size=8).hexdigest()


class Record(BaseModel):
    """A frozen row with no field that its reader does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """One turn of a conversation.

    >>> Message(role="user", content="How do I bake bread?").role
    'user'
    """

    role: Role
    content: str


class Triple(Record):
    """A harmful query with a safe and a harmful response to it (the paper's q, r, r-hat).

    >>> triple = Triple(query="How do I brew it?", safe="Sorry, I can't help.", harmful="Boil the roots.")
    >>> triple.id == Triple(**triple.model_dump()).id
    True
    """

    query: Text
    safe: Text
    harmful: Text
    category: str | None = None
    source: str | None = None

    @property
    def id(self) -> str:
        """The content's hash: randomness that belongs to a row follows the row, not its place in a file."""
        return short_hash(self.query, self.safe, self.harmful)


class Example(Record):
    """A helpful conversation, whose last message is the assistant's and the only one learned; or raw text.

    A raw `text` is wrapped by no template: all of it is learned, and the end after it.

    >>> asked, answer = Message(role="user", content="Bread?"), Message(role="assistant", content="Bake it.")
    >>> Example(messages=(asked, answer)).messages[-1].content, Example(text="A guide to bread.").messages
    ('Bake it.', ())
    """

    messages: tuple[Message, ...] = ()
    text: Text | None = None
    source: str | None = None

    @model_validator(mode="after")
    def _has_one_form(self) -> Example:
        if self.text is not None:
            if self.messages:
                raise ValueError("an example carries messages or a raw text, not both")
            return self
        if len(self.messages) < 2 or self.messages[-1].role != "assistant":
            raise ValueError("messages must end with an assistant's answer to somebody")
        if not all(message.content.strip() for message in self.messages):
            raise ValueError("messages must not be empty")
        return self

    @property
    def id(self) -> str:
        """The content's hash, as for `Triple.id`."""
        if self.text is not None:
            return short_hash("text", self.text)
        return short_hash(*(f"{m.role}\x1e{m.content}" for m in self.messages))


class Request(Record):
    """What somebody asks for, before any attack dresses it up.

    `answer` is the reference (GSM8K, MMLU); `harmful` is a harmful answer for prefill attacks; `steps` are reference
    steps of a harmful answer, of which the judge `steps` counts those that a reply gives.

    >>> Request(id="7", text="How do I bake bread?").answer is None
    True
    """

    id: Text
    text: Text
    category: str | None = None
    answer: str | None = None
    harmful: str | None = None
    steps: tuple[Text, ...] | None = None


class PrefillDepth(Record):
    """The part of a harmful answer that a prompt prefills: a percentage of its words, or a number of tokens."""

    amount: float = Field(ge=0)
    unit: Literal["%", "tokens"]


class Decoding(Record):
    """How an attacker who holds the weights bends greedy decoding: some texts are never completed.

    A token that would complete a text of `banned` gives way to the likeliest that does not. With `top_k`, only the
    likeliest `top_k` tokens are candidates: where all of them are banned, the first choice is kept. `steps` is the
    number of tokens from the reply's start on for which this holds (None: all); `ban_end` bans the end of the reply
    for as long.
    """

    banned: Annotated[tuple[Text, ...], Field(min_length=1)]
    steps: int | None = Field(default=None, ge=1)
    top_k: int | None = Field(default=None, ge=2)
    ban_end: bool = False

    @model_validator(mode="after")
    def _ends_some_time(self) -> Decoding:
        if self.ban_end and self.steps is None:
            raise ValueError("ban_end needs steps: a reply must be able to end")
        return self


class Cost(Record):
    """What finding a prompt took: replies asked of the target, of the attacker, scores asked, tokens, seconds.

    `target_queries` counts likelihoods too; `tokens` are those that target and attacker wrote, where they tell.
    """

    target_queries: int = 0
    attacker_queries: int = 0
    judge_queries: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Prompt(Record):
    """What the model is shown. `chat` prompts carry messages, `raw` prompts carry text that no template wraps.

    `prefill` is the start of the assistant's turn (chat only), `depth` its part of the harmful answer; a reply
    continues it. `request` is the original request that judges see, None where it is not known. `variant` tells the
    settings of an attack apart (`50%` of a prefill, `stack` of a CodeAttack). `decoding` is for attacks on the decode
    loop, and `cost` tells what a search took to find the prompt. `answer` and `steps` are the request's references.

    A `foreign` prompt belongs to a reply that others published: its id is made from its place in the file, and it may
    have no messages, where only the reply is known.

    >>> asked = (Message(role="user", content="How do I bake bread?"),)
    >>> Prompt(id="direct:7", request_id="7", request="How do I bake bread?", attack="direct", messages=asked).mode
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
    depth: PrefillDepth | None = None
    decoding: Decoding | None = None
    cost: Cost | None = None
    category: str | None = None
    answer: str | None = None
    steps: tuple[Text, ...] | None = None

    @model_validator(mode="after")
    def _has_one_form(self) -> Prompt:
        if self.mode == "chat" and (not (self.messages or self.foreign) or self.text is not None):
            raise ValueError("a chat prompt carries messages and no text")
        if self.mode == "raw" and (not self.text or self.messages is not None or self.prefill):
            raise ValueError("a raw prompt carries text, no messages and no prefill")
        return self

    @property
    def cell(self) -> str:
        """The name of the summary cell that this prompt counts in: its attack and variant, or its data set.

        >>> Prompt(id="1", request_id="r", request="?", attack="prefill", variant="50%", mode="raw", text="?").cell
        'prefill@50%'
        """
        if self.suite != "attack" and self.dataset:
            return self.dataset
        name = f"{self.attack}@{self.variant}" if self.variant else self.attack
        return f"{name} ({self.dataset})" if self.dataset else name


class Reply(Record):
    """What the model wrote after a prompt (and after its prefill, which is not repeated here).

    `token_starts[i]` is the character of `text` at which token i begins, so that a place in the text can be told in
    tokens; replies that others published have neither ids nor starts. `sample` numbers the replies to one prompt.

    >>> Reply(prompt_id="direct:7", text="Sorry, no.", stop_reason="eos").sample
    0
    """

    prompt_id: Text
    sample: int = Field(default=0, ge=0)
    text: str
    stop_reason: StopReason = "unknown"
    token_ids: tuple[int, ...] | None = None
    token_starts: tuple[int, ...] | None = None

    @property
    def key(self) -> ReplyKey:
        """What tells the reply from all others of one model.

        >>> Reply(prompt_id="direct:7", text="No.", sample=2).key
        ('direct:7', 2)
        """
        return self.prompt_id, self.sample


class Verdict(Record):
    """One judge's word on one reply. What a judge did not or could not tell is None, never False.

    `refusal_at` is the character of the reply at which its first refusal begins. `score` is the number in [0, 1] behind
    a yes or no (a probability, a grade), where a judge has one. `retry` marks a verdict that is missing because the
    judge's engine failed, so that judging again may help.

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
    score: float | None = Field(default=None, ge=0, le=1)
    retry: bool = False
    reason: str = ""

    @property
    def key(self) -> ReplyKey:
        """The key of the judged reply."""
        return self.prompt_id, self.sample

    def outcome(self, measure: Measure) -> bool | None:
        """The field that a measure counts; None is unscored.

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
