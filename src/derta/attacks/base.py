"""What all attacks share: how a request becomes a prompt with an id, and where chance comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from random import Random

from derta.errors import DataError, RecipeError
from derta.protocols import Attack, Engine
from derta.records import Cost, Decoding, Message, PrefillDepth, Prompt, Request, Suite, short_hash


def fill(template: str, placeholder: str, text: str) -> str:
    """Put `text` in place of `placeholder`, character for character: no template language reads it.

    >>> fill("Ask: @REQUEST@", "@REQUEST@", "What do {{ x }} and @REQUEST@ mean?")
    'Ask: What do {{ x }} and @REQUEST@ mean?'
    """
    return template.replace(placeholder, text)


def shipped_text(name: str) -> str:
    """A text asset of this package, without the line break that ends the file."""
    return (files("derta.attacks") / "texts" / name).read_text(encoding="utf-8").removesuffix("\n")


def shipped_lines(name: str) -> tuple[str, ...]:
    """The lines of a text asset that are not empty."""
    return tuple(line for line in shipped_text(name).splitlines() if line)


def user(text: str) -> tuple[Message, ...]:
    """A conversation of one user's message."""
    return (Message(role="user", content=text),)


def craft_prompt(
    request: Request,
    *,
    attack: str,
    variant: str | None = None,
    messages: tuple[Message, ...] | None = None,
    text: str | None = None,
    prefill: str | None = None,
    depth: PrefillDepth | None = None,
    decoding: Decoding | None = None,
    cost: Cost | None = None,
) -> Prompt:
    """A chat prompt (`messages`) or a raw one (`text`), with its id made of attack, variant and request.

    >>> craft_prompt(Request(id="7", text="Why?"), attack="prefill", variant="50%", messages=user("Why?")).id
    'prefill@50%:7'
    """
    cell = f"{attack}@{variant}" if variant else attack
    return Prompt(
        id=f"{cell}:{request.id}",
        request_id=request.id,
        request=request.text,
        attack=attack,
        variant=variant,
        mode="raw" if messages is None else "chat",
        messages=messages,
        text=text,
        prefill=prefill,
        depth=depth,
        decoding=decoding,
        cost=cost,
        category=request.category,
        answer=request.answer,
        steps=request.steps,
    )


def check_ids(requests: Sequence[Request]) -> None:
    """Refuse two requests of one id: their prompts could not be told apart.

    Raises:
        DataError: names the id.
    """
    twice = [name for name, count in Counter(request.id for request in requests).items() if count > 1]
    if twice:
        raise DataError(
            f"expected every request to have an id of its own, got {twice[0]!r} more than once ({len(twice)} such "
            "ids); rename or drop the duplicates"
        )


def check_values(attack: str, **options: Sequence[object]) -> None:
    """Refuse a swept option without a value, or with one twice: each value is a prompt of its own.

    Raises:
        RecipeError: names the attack and the option.
    """
    for option, values in options.items():
        if not values or len(set(values)) < len(values):
            raise RecipeError(f"{attack}: expected one or more {option}, each once, got {list(values)}")


def check_answers(requests: Sequence[Request], *, attack: str) -> None:
    """Refuse requests without a harmful answer, for attacks that put a part of one into the model's mouth.

    Raises:
        DataError: counts them.
    """
    bare = [request.id for request in requests if not (request.harmful or "").strip()]
    if bare:
        raise DataError(
            f"{attack} needs a harmful answer to every request, and {len(bare)} of {len(requests)} have none (first: "
            f"{bare[0]!r}); give the requests a `harmful` field, or make them from triples"
        )


def own_rng(key: str, request: Request) -> Random:
    """Chance that belongs to a request, whatever other requests there are."""
    return Random(short_hash(key, request.id))  # noqa: S311 - chance, not secrecy


def per_request(
    craft_one: Callable[[Request, Random], Iterable[Prompt]], *, needs_answers: str | None = None
) -> Attack:
    """An attack that treats each request alone; `needs_answers` names one that needs their harmful answers.

    The `rng` given to `craft_one` depends on the caller's rng and on the request's id, not on the other requests: a
    resumed, filtered or reordered file gets the same prompts. Give each call a fresh `Random(seed)`.
    """

    def craft(requests: Sequence[Request], *, target: Engine | None, rng: Random) -> Iterator[Prompt]:
        check_ids(requests)
        if needs_answers:
            check_answers(requests, attack=needs_answers)
        key = str(rng.getrandbits(64))
        return (prompt for request in requests for prompt in craft_one(request, own_rng(key, request)))

    return craft


def as_suite(prompts: Iterable[Prompt], *, suite: Suite, dataset: str) -> Iterator[Prompt]:
    """The same prompts counted in another suite: everyday requests sent as they are are no attack.

    The data set's name leads the id, so that several data sets with ids of their own fit in one file.

    >>> prompt = craft_prompt(Request(id="7", text="Why?"), attack="direct", messages=user("Why?"))
    >>> [(p.id, p.cell) for p in as_suite([prompt], suite="over_refusal", dataset="xstest")]
    [('xstest/direct:7', 'xstest')]
    """
    for prompt in prompts:
        yield prompt.model_copy(update={"id": f"{dataset}/{prompt.id}", "suite": suite, "dataset": dataset})
