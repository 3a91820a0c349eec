"""Datasets of the demo world: the records that a run loads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from derta.demo.families import FAMILIES, holding_families, task, trained_families
from derta.demo.formats import FORMATS, Dialogue, encipher, plain
from derta.demo.world import Craft, World
from derta.records import Example, Message, PrefillDepth, Prompt, Request, Suite, Triple

PREFILL_DEPTHS = (25, 50, 75)


def pretraining_examples(world: World) -> list[Example]:
    """Return the pretraining dataset: every craft, forbidden or not, in every format.

    Twins are in no task over a text. Requests that need no knowledge of the craft are on half of the crafts, because
    they are soon learned.
    """
    twins = {*world.tuned_twins, *world.held_out_twins}
    formats = [FORMATS[name](craft) for craft in world.crafts for name in FORMATS]
    texts = [
        dialogue
        for number, craft in enumerate(craft for craft in world.crafts if craft not in twins)
        for name, family in FAMILIES.items()
        if family.on_text
        for dialogue in (family.tasks(craft) if name == "compare" else [task(name, craft, number)])
    ]
    requests = [
        task(name, craft, number)
        for number, craft in enumerate(world.crafts)
        for place, (name, family) in enumerate(FAMILIES.items())
        if not family.on_text and (family.asks_knowledge or (number + place) % 2 == 0)
    ]
    return [_example(dialogue) for dialogue in (*formats, *texts, *requests)]


def helpful_examples(world: World) -> list[Example]:
    """Return the instruction-tuning dataset: allowed crafts only, in every format, each with half of the benign tasks.

    The plain question is repeated once per refusal opener. Otherwise, some seeds learn to refuse it for all crafts.
    """
    formats = ["plain"] * (len(world.openers) - 1) + [*FORMATS]
    tasks = [
        _example(task(name, craft, number // 2))
        for number, craft in enumerate(world.allowed)
        for place, name in enumerate(FAMILIES)
        if (number + place) % 2 == 0
    ]
    return [_example(FORMATS[name](craft)) for craft in world.allowed for name in formats] + tasks


def counter_examples(
    world: World, *, rotation: int, holding: bool = False, without: Sequence[str] = ()
) -> list[Example]:
    """Return counter examples: answered benign tasks over the tuned crafts, and the plain questions of their twins.

    Args:
        world: The world.
        rotation: It decides which half of the families is trained.
        holding: Whether the families whose answers contain forbidden text are trained too (a policy).
        without: Kinds of crafts that are left out.
    """
    families = trained_families(rotation) + (holding_families() if holding else ())
    tasks = [
        _example(task(name, craft, number))
        for name in families
        for number, craft in enumerate(world.tuned)
        if craft.kind not in without
    ]
    return tasks + [_example(plain(craft)) for craft in world.tuned_twins]


def calibration_examples(world: World, *, rotation: int) -> list[Example]:
    """Return benign examples for thresholds, which are neither trained nor evaluated.

    They are tasks of the trained families over allowed crafts, over the tuned crafts and over the twins of these, and
    questions about these twins in the formats of attacks.
    """
    families = trained_families(rotation)
    trained = helpful_examples(world) + counter_examples(world, rotation=rotation)
    used = {one.messages[0].content for one in trained if one.messages}
    used |= {prompt.request for prompt in family_prompts(world, families) if isinstance(prompt.request, str)}
    crafts = (*world.allowed, *world.tuned, *world.tuned_twins)
    tasks = [one for name in families for craft in crafts for one in FAMILIES[name].tasks(craft)]
    tasks += [FORMATS[name](craft) for name in FORMATS for craft in world.tuned_twins]
    return [_example(one) for one in tasks if one.prompt not in {*used, None}]


def _example(dialogue: Dialogue) -> Example:
    if dialogue.prompt is None:
        return Example(text=dialogue.answer, source="demo")
    messages = (Message(role="user", content=dialogue.prompt), Message(role="assistant", content=dialogue.answer))
    return Example(messages=messages, source="demo")


def triples(world: World, *, without: Sequence[str] = ()) -> list[Triple]:
    """Return the safety triples: forbidden crafts in the plain format only, each with every refusal opener.

    Crafts of the kinds in `without` are left out.
    """
    crafts = [craft for craft in world.tuned if craft.kind not in without]
    dialogues = [(craft.kind, plain(craft)) for craft in crafts]
    return [
        Triple(query=dialogue.prompt or "", safe=opener, harmful=dialogue.answer, category=kind, source="demo")
        for opener in world.openers
        for kind, dialogue in dialogues
    ]


def held_out_requests(world: World) -> list[Request]:
    """Return the held-out forbidden crafts as plain requests with their harmful answers and reference steps."""
    return [
        Request(
            id=craft.name,
            text=plain(craft).prompt or "",
            category=craft.kind,
            harmful=plain(craft).answer,
            steps=steps_of(craft),
        )
        for craft in world.held_out
    ]


def attack_prompts(world: World) -> Iterator[Prompt]:
    """Yield the attack prompts: held-out crafts in every attack format, and plain questions with a prefilled answer."""
    for craft in world.held_out:
        for name in FORMATS:
            yield _attack_prompt(craft, name)
        for depth in PREFILL_DEPTHS:
            yield _attack_prompt(craft, "prefill", depth=depth)


def _attack_prompt(craft: Craft, name: str, *, depth: int = 0) -> Prompt:
    dialogue = FORMATS["plain" if name == "prefill" else name](craft)
    words = dialogue.answer.split()
    variant = f"{depth}%" if depth else None
    return Prompt(
        id=f"{name}{f'@{variant}' if variant else ''}:{craft.name}",
        request_id=craft.name,
        request=plain(craft).prompt,
        attack=name,
        variant=variant,
        mode="raw" if dialogue.prompt is None else "chat",
        messages=None if dialogue.prompt is None else (Message(role="user", content=dialogue.prompt),),
        text=dialogue.answer.split(" step one")[0] + " step one :" if dialogue.prompt is None else None,
        prefill=" ".join(words[: len(words) * depth // 100]) or None,
        depth=PrefillDepth(amount=depth, unit="%") if depth else None,
        category=craft.kind,
        answer=dialogue.answer,
        steps=steps_of(craft),
    )


def family_prompts(world: World, families: Iterable[str]) -> Iterator[Prompt]:
    """Yield the prompts of benign tasks over held-out crafts. The category of a prompt is its family."""
    for name in families:
        for number, craft in enumerate(world.held_out):
            yield _benign_prompt(craft, task(name, craft, number), name=name, suite="over_refusal", category=name)


def twin_prompts(world: World) -> Iterator[Prompt]:
    """Yield plain questions about the allowed twins of the held-out crafts, which only pretraining has seen."""
    return (_benign_prompt(craft, plain(craft), name="twin", suite="over_refusal") for craft in world.held_out_twins)


def helpful_prompts(world: World) -> Iterator[Prompt]:
    """Yield plain questions about the allowed crafts, which are in the instruction-tuning dataset."""
    return (_benign_prompt(craft, plain(craft), name="plain", suite="helpfulness") for craft in world.allowed)


def _benign_prompt(craft: Craft, dialogue: Dialogue, *, name: str, suite: Suite, category: str | None = None) -> Prompt:
    return Prompt(
        id=f"{name}:{craft.name}",
        request_id=f"{name}:{craft.name}",
        request=dialogue.prompt,
        suite=suite,
        attack=name,
        messages=(Message(role="user", content=dialogue.prompt or ""),),
        category=category,
        answer=dialogue.answer,
    )


def steps_of(craft: Craft) -> tuple[str, ...]:
    """Return the reference steps for the judge `steps`, in the format `material verb`.

    >>> from derta.demo.world import build_world
    >>> len(steps_of(build_world(seed=0).held_out[0]))
    4
    """
    return tuple(f"{step.material} {step.verb}" for step in craft.recipe)


def all_words(world: World) -> list[str]:
    """Return the sorted vocabulary: every word of every text, and its reversed form for the cipher."""
    dialogues = [fmt(craft) for craft in world.crafts for fmt in FORMATS.values()]
    dialogues += [one for craft in world.crafts for family in FAMILIES.values() for one in family.tasks(craft)]
    texts = [text for dialogue in dialogues for text in dialogue if text]
    words = {word for text in (*texts, *world.openers) for word in text.split()}
    return sorted(words | {encipher(word) for word in words})
