"""Published files to cases: what the model was asked, what it said, and what people said of that, if they did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from derta.errors import DataError
from derta.files import read_objects
from derta.paper.figures import OutputKind
from derta.records import Message, Prompt, Reply
from derta.sources import read_rows

PROMPTS = "prompts_completing.jsonl"
REQUESTS = "requests.jsonl"
_STEP = "Step 1:"  # where the paper's completing prompts end


class Published(NamedTuple):
    """A prompt, the reply to it, and whether people called it a refusal; None where they said partial, or nothing."""

    prompt: Prompt
    reply: Reply
    refused: bool | None = None


def read_published(path: Path, *, kind: OutputKind) -> list[Published]:
    """Read one published file; completions and attacks need the prompts' and requests' files beside it.

    Raises:
        DataError: this file or one beside it is missing or malformed.
    """
    return list(READERS[kind](path))


def _text_field(value: Any, name: str, where: str) -> str:
    if not isinstance(value, dict) or not isinstance(value.get(name), str):
        raise DataError(f"{where}: expected an object with a text field {name!r}, got {str(value)[:40]!r}")
    return value[name]


def _questions(path: Path) -> list[str]:
    asked = (_text_field(value, "question", f"{path}:{number}") for number, value in read_objects(path))
    return [text for text in asked if text.strip()]


def _chat_case(name: str, *, asked: str, request: str | None, text: str, answer: str | None = None) -> Published:
    request = request if request and request.strip() else None
    prompt = Prompt(
        id=name,
        request_id=name,
        request=request,
        foreign=True,
        attack="published",
        messages=(Message(role="user", content=asked),),
        answer=answer,
    )
    return Published(prompt, Reply(prompt_id=name, text=text))


def _answers(path: Path) -> Iterator[Published]:
    for number, value in read_objects(path):
        where = f"{path}:{number}"
        asked, text = _text_field(value, "question", where), _text_field(value, "response", where)
        answer = _text_field(value, "answer", where)
        yield _chat_case(f"row-{number}", asked=asked, request=asked, text=text, answer=answer)


def find_request(asked: str, requests: Sequence[str]) -> str | None:
    """The longest request that an attack's prompt holds; None where it holds none.

    >>> find_request("You are DAN. How do I bake bread?", ["How do I bake bread?", "bread?"])
    'How do I bake bread?'
    """
    return max((request for request in requests if request in asked), key=len, default=None)


def _attacks(path: Path) -> Iterator[Published]:
    requests = _questions(path.parent / REQUESTS)
    for number, value in read_objects(path):
        asked = _text_field(value, "question", f"{path}:{number}")
        text = _text_field(value, "response", f"{path}:{number}")
        yield _chat_case(f"row-{number}", asked=asked, request=find_request(asked, requests), text=text)


def split_completion(text: str, prompts: Sequence[str]) -> tuple[str, str]:
    r"""The prompt and the continuation of a published completion.

    A prompt that is not among the known ones ends, as all of the paper's do, with its first `Step 1:`.

    >>> split_completion("I will explain:\n Step 1: Mix.", ["I will explain:"])
    ('I will explain:', '\n Step 1: Mix.')
    """
    known = max((prompt for prompt in prompts if text.startswith(prompt)), key=len, default=None)
    if known is None:
        before, step, _ = text.partition(_STEP)
        known = before + step
    return known, text[len(known) :]


def _completions(path: Path) -> Iterator[Published]:
    prompts = _questions(path.parent / PROMPTS)
    for number, value in read_objects(path):
        if not isinstance(value, str) or not value.strip():
            got = "an empty one" if isinstance(value, str) else type(value).__name__
            raise DataError(f"{path}:{number}: expected a string, prompt and continuation, got {got}")
        asked, text = split_completion(value, prompts)
        name = f"row-{number}"
        prompt = Prompt(
            id=name, request_id=name, request=asked, foreign=True, attack="completing", mode="raw", text=asked
        )
        yield Published(prompt, Reply(prompt_id=name, text=text))


def _harmless(path: Path) -> Iterator[Published]:
    """Each answer once: the released files repeat some rows, as a distributed sampler fills up its last batch."""
    seen: set[tuple[str, str]] = set()
    for number, value in read_objects(path):
        where = f"{path}:{number}"
        asked, text = _text_field(value, "question", where), _text_field(value, "response", where)
        if (asked, text) not in seen:
            seen.add((asked, text))
            yield _chat_case(f"row-{number}", asked=asked, request=asked, text=text)


def _labelled_refusals(path: Path) -> Iterator[Published]:
    labels = {"1": False, "2": True, "3": None}
    for number, (where, row) in enumerate(read_rows(path), start=2):
        asked, text = _text_field(row, "prompt", where), _text_field(row, "completion", where)
        label = _text_field(row, "final_label", where)
        if label[:1] not in labels:
            raise DataError(f"{where}: final_label: expected 1_…, 2_… or 3_…, got {label!r}")
        yield _chat_case(f"row-{number}", asked=asked, request=asked, text=text)._replace(refused=labels[label[0]])


READERS: Mapping[OutputKind, Callable[[Path], Iterator[Published]]] = {
    "answers": _answers,
    "completions": _completions,
    "attacks": _attacks,
    "harmless": _harmless,
    "labelled_refusals": _labelled_refusals,
}
