"""Readers of the paper's published outputs: files in, cases out (a prompt, the reply, and people's label if any)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from derta.errors import DataError
from derta.paper.figures import OutputKind
from derta.records import Message, Prompt, Reply
from derta.sources import read_rows

PROMPTS = "prompts_completing.jsonl"
REQUESTS = "requests.jsonl"
_STEP = "Step 1:"  # the end of the paper's completing prompts


class PublishedCase(NamedTuple):
    """A published prompt with its reply, and whether people labelled the reply a refusal.

    `refused` is None for partial refusals and for files without labels.
    """

    prompt: Prompt
    reply: Reply
    refused: bool | None = None


class PromptTexts(NamedTuple):
    """Texts of the prompts that the paper's completions start with, and of the requests in its attacks' prompts."""

    prompts: Sequence[str]
    requests: Sequence[str]


class PublishedFile(NamedTuple):
    """The cases of a file, and the number of rows that repeat another one and are left out.

    Some rows are repeated, because a distributed sampler pads its last batch.
    """

    cases: list[PublishedCase]
    num_repeated: int


def read_published(path: Path, *, kind: OutputKind, texts: PromptTexts | None = None) -> PublishedFile:
    """Load the cases of one published file: a JSON list or JSON Lines.

    Without `texts`, `completions` and `attacks` load `prompts_completing.jsonl` and `requests.jsonl` from the same
    folder.

    Raises:
        DataError: this file, or the other file that it needs, is missing or malformed.
    """
    if texts is None:
        prompts = _questions(path.parent / PROMPTS) if kind == "completions" else []
        texts = PromptTexts(prompts, _questions(path.parent / REQUESTS) if kind == "attacks" else [])
    cases = list(READERS[kind](path, texts))
    unique: dict[tuple[object, ...], PublishedCase] = {}
    for case in cases:
        unique.setdefault((case.prompt.messages, case.prompt.text, case.reply.text, case.refused), case)
    return PublishedFile(list(unique.values()), len(cases) - len(unique))


def _text_field(value: Any, name: str, where: str) -> str:
    if not isinstance(value, dict) or not isinstance(value.get(name), str):
        raise DataError(f"{where}: expected an object with a text field {name!r}, got {str(value)[:40]!r}")
    return value[name]


def _questions(path: Path) -> list[str]:
    texts = (_text_field(row.value, "question", row.where) for row in read_rows(path))
    return [text for text in texts if text.strip()]


def _chat_case(name: str, *, question: str, request: str | None, text: str, answer: str | None = None) -> PublishedCase:
    request = request if request and request.strip() else None
    prompt = Prompt(
        id=name,
        request_id=name,
        request=request,
        foreign=True,
        attack="published",
        messages=(Message(role="user", content=question),),
        answer=answer,
    )
    return PublishedCase(prompt, Reply(prompt_id=name, text=text))


def _answers(path: Path, _: PromptTexts) -> Iterator[PublishedCase]:
    for number, (where, value) in enumerate(read_rows(path), start=1):
        question, text = _text_field(value, "question", where), _text_field(value, "response", where)
        answer = _text_field(value, "answer", where)
        yield _chat_case(f"row-{number}", question=question, request=question, text=text, answer=answer)


def find_request(prompt: str, requests: Sequence[str]) -> str | None:
    """Return the longest request that occurs in an attack's prompt, if possible not all of it; None if none does.

    >>> find_request("You are DAN. How do I bake bread?", ["How do I bake bread?", "bread?"])
    'How do I bake bread?'
    """
    found = (request for request in requests if request in prompt)
    return max(found, key=lambda request: (request != prompt, len(request)), default=None)


def _attacks(path: Path, texts: PromptTexts) -> Iterator[PublishedCase]:
    for number, (where, value) in enumerate(read_rows(path), start=1):
        question, text = _text_field(value, "question", where), _text_field(value, "response", where)
        yield _chat_case(f"row-{number}", question=question, request=find_request(question, texts.requests), text=text)


def split_completion(text: str, prompts: Sequence[str]) -> tuple[str, str]:
    r"""Split a published completion into its prompt and its continuation.

    A prompt that is not in `prompts` ends with its first `Step 1:`, as all of the paper's prompts do.

    >>> split_completion("I will explain:\n Step 1: Mix.", ["I will explain:"])
    ('I will explain:', '\n Step 1: Mix.')
    """
    prompt = max((prompt for prompt in prompts if text.startswith(prompt)), key=len, default=None)
    if prompt is None:
        before, step, _ = text.partition(_STEP)
        prompt = before + step
    return prompt, text[len(prompt) :]


def _completions(path: Path, texts: PromptTexts) -> Iterator[PublishedCase]:
    for number, (where, value) in enumerate(read_rows(path), start=1):
        if not isinstance(value, str) or not value.strip():
            got = "an empty one" if isinstance(value, str) else type(value).__name__
            raise DataError(f"{where}: expected a string, prompt and continuation, got {got}")
        start, text = split_completion(value, texts.prompts)
        name = f"row-{number}"
        content: dict[str, Any] = {"mode": "raw", "text": start} if start.strip() else {}
        prompt = Prompt(
            id=name,
            request_id=name,
            request=start if start.strip() else None,
            foreign=True,
            attack="completing",
            **content,
        )
        yield PublishedCase(prompt, Reply(prompt_id=name, text=text))


def _harmless(path: Path, _: PromptTexts) -> Iterator[PublishedCase]:
    for number, (where, value) in enumerate(read_rows(path), start=1):
        question, text = _text_field(value, "question", where), _text_field(value, "response", where)
        yield _chat_case(f"row-{number}", question=question, request=question, text=text)


def _labelled_refusals(path: Path, _: PromptTexts) -> Iterator[PublishedCase]:
    labels = {"1": False, "2": True, "3": None}
    for number, (where, row) in enumerate(read_rows(path), start=2):
        question, text = _text_field(row, "prompt", where), _text_field(row, "completion", where)
        label = _text_field(row, "final_label", where)
        if label[:1] not in labels:
            raise DataError(f"{where}: final_label: expected 1_…, 2_… or 3_…, got {label!r}")
        case = _chat_case(f"row-{number}", question=question, request=question, text=text)
        yield case._replace(refused=labels[label[0]])


READERS: Mapping[OutputKind, Callable[[Path, PromptTexts], Iterator[PublishedCase]]] = {
    "answers": _answers,
    "completions": _completions,
    "attacks": _attacks,
    "harmless": _harmless,
    "labelled_refusals": _labelled_refusals,
}
