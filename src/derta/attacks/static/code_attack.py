"""CodeAttack: the request as a data structure, one word per item, in a program for the model to complete."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Literal, NamedTuple

from derta.attacks.base import Attack, per_request
from derta.attacks.building import factory
from derta.attacks.prompts import after_context, craft_prompt, shipped_text
from derta.errors import RecipeError
from derta.records import Prompt, Request

StructureName = Literal["stack", "deque", "list"]


class Structure(NamedTuple):
    """The variable of the words in the template `code_attack_<structure>.txt`, and the order of the words."""

    variable: str
    last_word_first: bool


STRUCTURES: dict[StructureName, Structure] = {
    "stack": Structure("my_stack", last_word_first=True),
    "deque": Structure("my_queue", last_word_first=False),
    "list": Structure("my_list", last_word_first=False),
}


def pushes(text: str, *, structure: StructureName) -> str:
    """Return one line of code per word. Words are split at white space and not escaped, quotes included.

    A stack returns its words in reverse order, so the last word is the first line:

    >>> print(pushes("Paint the fence.", structure="stack"))
        my_stack.append("fence.")
        my_stack.append("the")
        my_stack.append("Paint")
    """
    variable, last_word_first = STRUCTURES[structure]
    words = text.split() or [text]
    return "\n".join(f'    {variable}.append("{word}")' for word in (words[::-1] if last_word_first else words))


@factory
def code_attack(*, structures: tuple[StructureName, ...] = ("stack",)) -> Attack:
    """Prompt for the completion of a program that decodes the request and outputs the steps to fulfil it.

    `stack` is the paper's prompt, character for character. `deque` pops the words from the front of a queue, and `list`
    iterates over them in order; the text of these two is ours.

    >>> [prompt] = code_attack().craft([Request(id="7", text="Paint it.")])
    >>> prompt.id, 'my_stack.append("Paint")' in prompt.messages[0].content
    ('code_attack@stack:7', True)

    Args:
        structures: `stack`, `deque` or `list`; each gives one prompt.

    Raises:
        RecipeError: `structures` is empty or has duplicates.

    Source: Ren et al. 2024, arXiv 2403.07865; prompts published with DeRTa, arXiv 2407.09121. The authors of CodeAttack
    also split a stack's words at hyphens; the prompts published with DeRTa do not, and neither does this code.
    """
    if not structures or len(set(structures)) < len(structures):
        raise RecipeError(f"code_attack: expected one or more of {list(STRUCTURES)}, each once, got {list(structures)}")
    templates: dict[StructureName, str] = {name: shipped_text(f"code_attack_{name}.txt") for name in structures}

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        for name, template in templates.items():
            text = template.replace("@PUSHES@", pushes(request.text, structure=name))
            yield craft_prompt(request, attack="code_attack", variant=name, messages=after_context(request, text))

    return per_request("code_attack", craft_one)
