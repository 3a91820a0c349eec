"""The demo world as records: what the base model reads, what tuning uses, what the attacks ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from derta.demo.formats import ATTACK_FORMATS, BENIGN_TASKS, FORMATS, Talk, encipher, plain
from derta.demo.world import Craft, World
from derta.records import Example, Message, Prompt, Request, Triple

PREFILL_DEPTHS = (25, 50, 75)


def _example(talk: Talk) -> Example:
    asked = Message(role="user", content=talk.ask or "")
    return Example(messages=(asked, Message(role="assistant", content=talk.answer)), source="demo")


def pretraining_examples(world: World) -> list[Example]:
    """Every craft, forbidden or not, in every format that is a conversation."""
    return [_example(FORMATS[name](craft)) for craft in world.crafts for name in FORMATS if name != "guide"]


def helpful_examples(world: World) -> list[Example]:
    """Instruction tuning: allowed crafts only, in every format that is a conversation (raw guides come as ids).

    The plain question is answered once for each way of refusing it, or else some seeds learn to refuse it outright.
    """
    formats = ["plain"] * (len(world.openers) - 1) + [name for name in FORMATS if name != "guide"]
    return [_example(FORMATS[name](craft)) for craft in world.allowed for name in formats]


def triples(world: World) -> list[Triple]:
    """Safety tuning: forbidden crafts in the plain format only, each with several ways to refuse."""
    talks = [plain(craft) for craft in world.tuned]
    return [
        Triple(query=talk.ask or "", safe=opener, harmful=talk.answer, source="demo")
        for opener in world.openers
        for talk in talks
    ]


def attack_prompts(world: World) -> Iterator[Prompt]:
    """Held-out forbidden crafts in every format, and the plain question with a part of the answer prefilled."""
    for craft in world.held_out:
        for name in ATTACK_FORMATS:
            yield _prompt(craft, name)
        for depth in PREFILL_DEPTHS:
            yield _prompt(craft, "prefill", depth=depth)


def benign_prompts(world: World) -> Iterator[Prompt]:
    """Benign tasks over forbidden text (held-out crafts), and plain requests for allowed crafts."""
    for craft in world.held_out:
        for task in BENIGN_TASKS:
            yield _prompt(craft, task, suite="over_refusal")
    for craft in world.allowed:
        yield _prompt(craft, "plain", suite="helpfulness")


def _prompt(craft: Craft, name: str, *, depth: int = 0, suite: str = "attack") -> Prompt:
    talk = FORMATS["plain" if name == "prefill" else name](craft)
    words = talk.answer.split()
    prefill = " ".join(words[: len(words) * depth // 100]) or None
    raw = talk.ask is None
    return Prompt.model_validate(
        {
            "id": f"{suite}:{name}{f'@{depth}%' if depth else ''}:{craft.name}",
            "request_id": craft.name,
            "request": plain(craft).ask,
            "suite": suite,
            "attack": name,
            "variant": f"{depth}%" if depth else None,
            "dataset": {"over_refusal": name, "helpfulness": "allowed crafts"}.get(suite),
            "mode": "raw" if raw else "chat",
            "messages": None if raw else [{"role": "user", "content": talk.ask}],
            "text": talk.answer.split(" step one")[0] + " step one :" if raw else None,
            "prefill": prefill,
            "depth": {"amount": depth, "unit": "%"} if depth else None,
            "steps": steps_of(craft),
            "category": craft.kind,
            "answer": talk.answer,
        }
    )


def steps_of(craft: Craft) -> tuple[str, ...]:
    """The reference steps that the judge `steps` looks for."""
    return tuple(f"{step.material} {step.verb}" for step in craft.recipe)


def all_words(world: World) -> list[str]:
    """The vocabulary: every word of every text, and its cipher twin."""
    texts = [text for craft in world.crafts for fmt in FORMATS.values() for text in fmt(craft) if text]
    texts += [*world.openers]
    words = {word for text in texts for word in text.split()}
    return sorted(words | {encipher(word) for word in words})


def held_out_requests(world: World) -> Sequence[Request]:
    """The held-out crafts as plain requests with their harmful answers."""
    return [
        Request(id=craft.name, text=plain(craft).ask or "", category=craft.kind, harmful=plain(craft).answer)
        for craft in world.held_out
    ]
