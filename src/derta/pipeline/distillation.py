"""Answers distilled from the model itself: the untuned model answers the prompts of a source, before any training.

Training on them moves an instruct model less than training on the answers of others does. An answer that refuses, is
malformed or a loop, or is cut off by the limit of tokens is dropped and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from derta.config import AnswerSource, Recipe
from derta.data.fields import RefusedRows
from derta.data.helpful import ReadExamples, read_examples
from derta.data.helpful_formats import HELPFUL_FORMATS
from derta.data.request_formats import REQUEST_FORMATS
from derta.data.requests import load_requests
from derta.errors import DataError
from derta.files import read_records, write_records
from derta.messages import in_context
from derta.pipeline.asking import REFUSING, answer_of, ask, outcomes
from derta.protocols import Display
from derta.records import Example, Message, Prompt, Reply, Tools, context_keys, short_hash
from derta.sources import source_name


class Conversation(NamedTuple):
    """The messages before an answer, with the definitions of tools and the name of the source."""

    messages: tuple[Message, ...]
    tools: Tools = None
    source: str | None = None

    @property
    def id(self) -> str:
        """Hash of the content."""
        return short_hash(*context_keys(self.messages, self.tools))


def distill_sources(
    recipe: Recipe,
    sources: Sequence[AnswerSource],
    *,
    fault_of: Callable[[Example], str | None],
    path: Path,
    display: Display = Display(),
) -> ReadExamples:
    """Return the requests of some sources with the untuned model's own answers; see `distill`.

    A source whose `format` is one of request datasets needs no answers. Rows for which `fault_of` returns a message
    are dropped and counted.
    """
    conversations: list[Conversation] = []
    dropped: Counter[str] = Counter()
    for source in sources:
        read, counts = _read(source, fault_of=fault_of)
        conversations += read
        dropped += counts
    distilled = distill(recipe, conversations, path=path, display=display)
    return distilled._replace(dropped=dropped + distilled.dropped)


def _read(
    source: AnswerSource, *, fault_of: Callable[[Example], str | None]
) -> tuple[list[Conversation], Counter[str]]:
    layout = source.model_dump(include={"format", "split", "config", "columns", "limit"})
    if source.format in REQUEST_FORMATS.keys() - HELPFUL_FORMATS.keys():
        name = source_name(source.path)
        requests = [Conversation(one.conversation, one.tools, name) for one in load_requests(source.path, **layout)]
        refused = RefusedRows(fault_of)
        kept = [
            one
            for number, one in enumerate(requests, start=1)
            if not refused.has(_example(one, "?"), where=f"{source.path}, request {number}")
        ]
        refused.log()
        return kept, refused.dropped
    read = read_examples(source.path, **layout, fault_of=fault_of)
    chats = [one for one in read.examples if one.text is None]
    without = Counter({"no_request": len(read.examples) - len(chats)})
    return [Conversation(one.messages[:-1], one.tools, one.source) for one in chats], read.dropped + without


def distill(
    recipe: Recipe, conversations: Sequence[Conversation], *, path: Path, display: Display = Display()
) -> ReadExamples:
    """Return examples with the untuned model's own greedy answers, and counts of the dropped ones by reason.

    Equal conversations are answered once. The examples are written to `path`, in the format of `data.helpful`, and the
    replies, with their provenance, to `*.replies.jsonl`.

    Args:
        recipe: The recipe, whose model answers, with at most `data.distill_tokens` tokens.
        conversations: The conversations to answer.
        path: The file of the examples.
        display: Shows progress.

    Raises:
        DataError: no answer is left.
    """
    first = {one.id: one for one in conversations}
    prompts = [_prompt(one) for one in first.values()]
    replies = ask(
        recipe,
        None,
        prompts,
        path=path.with_name(f"{path.stem}.replies.jsonl"),
        max_new_tokens=recipe.data.distill_tokens,
        description="distilled answers",
        display=display,
    )
    judged = outcomes(recipe, prompts, replies)
    answers = {prompt.id: answer_of(reply) for prompt, reply in zip(prompts, replies, strict=True)}
    kept = [prompt.id for prompt, outcome in zip(prompts, judged, strict=True) if outcome == "answered"]
    dropped = Counter({f"distilled_{outcome}": count for outcome, count in Counter(judged).items()})
    del dropped["distilled_answered"]
    if not kept:
        raise DataError(
            f"{recipe.model.path}: expected answers to distill, got none of {len(prompts)} ({dict(dropped)}); raise "
            "`data.distill_tokens`, or use the answers of the file"
        )
    examples = [_example(first[name], answers[name]) for name in kept]
    if not path.exists() or list(read_records(path, Example)) != examples:
        write_records(path, examples)
    if repeated := len(conversations) - len(first):
        dropped["distilled_repeated"] = repeated
    return ReadExamples(examples, dropped)


def drop_refusals(read: ReadExamples, recipe: Recipe) -> ReadExamples:
    """Return examples without those whose answer refuses or is malformed, by the refusal judge; they are counted.

    A set of helpful answers to requests that look harmful has some refusals, which counter examples must not teach.
    """
    chats = [one for one in read.examples if one.text is None]
    prompts = [_prompt(Conversation(one.messages[:-1], one.tools, one.source)) for one in chats]
    replies = [
        Reply(prompt_id=prompt.id, text=one.messages[-1].content) for prompt, one in zip(prompts, chats, strict=True)
    ]
    judged = outcomes(recipe, prompts, replies)
    refusing = {one.id: outcome for one, outcome in zip(chats, judged, strict=True) if outcome in REFUSING}
    kept = [one for one in read.examples if one.id not in refusing]
    return read._replace(examples=kept, dropped=read.dropped + Counter(f"answer_{one}" for one in refusing.values()))


def _prompt(conversation: Conversation) -> Prompt:
    return Prompt(
        id=conversation.id,
        request_id=conversation.id,
        request=in_context(conversation.messages) or None,
        suite="over_refusal",
        attack="direct",
        messages=conversation.messages,
        tools=conversation.tools,
    )


def _example(conversation: Conversation, answer: str) -> Example:
    answered = (*conversation.messages, Message(role="assistant", content=answer))
    return Example(messages=answered, source=conversation.source, tools=conversation.tools)
