"""Prompts from requests, with their ids, and the text assets of this package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.resources import files

from derta.records import Cost, Decoding, Message, Place, PrefillDepth, Prompt, Request, Suite


def shipped_text(name: str) -> str:
    """Load a text asset of this package, without the final line break."""
    return (files("derta.attacks") / "texts" / name).read_text(encoding="utf-8").removesuffix("\n")


def shipped_lines(name: str) -> tuple[str, ...]:
    """Load the lines of a text asset that are not empty."""
    return tuple(line for line in shipped_text(name).splitlines() if line)


def user(text: str) -> tuple[Message, ...]:
    """Return a conversation with one user message."""
    return (Message(role="user", content=text),)


def after_context(request: Request, text: str) -> tuple[Message, ...]:
    """Return the messages before a request, then a text as the user message in the place of the request.

    >>> request = Request(id="7", text="Why?", messages=[Message(role="system", content="Be brief.")])
    >>> [message.content for message in after_context(request, "Tell me: why?")]
    ['Be brief.', 'Tell me: why?']
    """
    return (*request.messages, *user(text))


def craft_prompt(
    request: Request,
    *,
    attack: str,
    variant: str | None = None,
    messages: tuple[Message, ...] | None = None,
    text: str | None = None,
    prefill: str | None = None,
    prefill_in: Place = "answer",
    depth: PrefillDepth | None = None,
    decoding: Decoding | None = None,
    cost: Cost | None = None,
    draw: int | None = None,
) -> Prompt:
    """Return a chat prompt (`messages`) or a raw prompt (`text`). Its id has the format `attack@variant:request_id`.

    The id of one of several draws for a request ends in its number, `#0` and so on.

    >>> craft_prompt(Request(id="7", text="Why?"), attack="prefill", variant="50%", messages=user("Why?")).id
    'prefill@50%:7'
    """
    cell = f"{attack}@{variant}" if variant else attack
    return Prompt(
        id=f"{cell}:{request.id}" if draw is None else f"{cell}:{request.id}#{draw}",
        request_id=request.id,
        request=request.in_context,
        attack=attack,
        variant=variant,
        mode="raw" if messages is None else "chat",
        messages=messages,
        text=text,
        prefill=prefill,
        prefill_in=prefill_in,
        depth=depth,
        decoding=decoding,
        cost=cost,
        draw=draw,
        category=request.category,
        answer=request.answer,
        steps=request.steps,
        tools=None if messages is None else request.tools,
    )


def as_suite(prompts: Iterable[Prompt], *, suite: Suite, dataset: str) -> Iterator[Prompt]:
    """Yield the prompts as part of another suite, such as benign requests that contain no attack.

    The dataset's name becomes a prefix of each id, so that several datasets with the same ids fit in one file.

    >>> prompt = craft_prompt(Request(id="7", text="Why?"), attack="direct", messages=user("Why?"))
    >>> [(p.id, p.cell) for p in as_suite([prompt], suite="over_refusal", dataset="xstest")]
    [('xstest/direct:7', 'xstest')]
    """
    for prompt in prompts:
        yield prompt.model_copy(update={"id": f"{dataset}/{prompt.id}", "suite": suite, "dataset": dataset})
