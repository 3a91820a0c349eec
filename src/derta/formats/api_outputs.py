"""Rows that engines and evaluation tools write: replies inside nested objects, or several samples in one row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from derta.columns import LABEL, REPLY
from derta.errors import DataError
from derta.formats.conversations import message_text
from derta.sources import Row

Values = Mapping[str, Any]


def _fields(value: object) -> Values:
    return cast("Values", value) if isinstance(value, dict) else {}


def _items(value: object) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def is_completion(values: Values) -> bool:
    """Return whether a row is a line of a batch's output (OpenAI, Anthropic), or a chat completion itself."""
    is_batch = "custom_id" in values and isinstance(values.get("response", values.get("result")), dict | None)
    return (is_batch and not _OF_A_BATCH.isdisjoint(values)) or bool(_items(values.get("choices")))


_OF_A_BATCH = {"response", "result", "error"}


def completion_rows(values: Values, where: str) -> Iterator[dict[str, Any]]:
    """Yield the replies of a chat completion, or of a line of a batch; a request that failed is an unanswered prompt.

    >>> body = {"model": "m", "choices": [{"message": {"role": "assistant", "content": "Mix."}}]}
    >>> line = {"custom_id": "tea", "response": {"status_code": 200, "body": body}, "error": None}
    >>> [(row["request_id"], row["response"]) for row in completion_rows(line, "a:1")]
    [('tea', 'Mix.')]

    Raises:
        DataError: a choice has no text.
    """
    result = _fields(values.get("result"))
    body = _fields(_fields(values.get("response")).get("body")) or _fields(result.get("message")) or values
    others = {key: value for key, value in values.items() if key not in _OF_A_COMPLETION}
    known = others | {"model": body.get("model", values.get("model_id"))}
    if "custom_id" in values or "question_id" in values:
        known["request_id"] = values.get("custom_id", values.get("question_id"))
    choices = [{"message": body}] if result.get("message") else _items(body.get("choices"))
    error = _fields(values.get("error") or body.get("error") or result.get("error"))
    if not choices and not error and result.get("type") in {None, "succeeded"}:
        raise DataError(f"{where}: expected choices or an error in the line of a batch, got neither; fix the row")
    if not choices:
        reason = str(error.get("message") or result.get("type") or "the request failed")[:200]
        yield known | {"response": "", "unanswered": "failed", "reason": reason}
    for number, choice in enumerate(choices):
        reply = _choice_text(_fields(choice), f"{where}: choices[{number}]")
        row = known | {"response": reply, "sample": number}
        if _fields(choice).get("finish_reason") == "content_filter" and not reply:
            row |= {"unanswered": "filtered", "reason": "content_filter"}
        yield row


_OF_A_COMPLETION = {
    *("response", "result", "error", "choices", "custom_id", "question_id", "model_id", "object", "created", "usage"),
    *("tstamp", "answer_id", "system_fingerprint", "service_tier"),
}


def _choice_text(choice: Values, where: str) -> str:
    """Return the text of a choice: a message, a text, or the last of its turns (FastChat).

    A refusal by structured outputs is in a field of its own.
    """
    turns = _items(choice.get("turns"))
    text = turns[-1] if turns else choice.get("text")
    if isinstance(text, str):
        return text
    message = _fields(choice.get("message"))
    if not message:
        raise DataError(f"{where}: expected a message, a text or turns, got {str(dict(choice))[:60]!r}; fix the row")
    if not message.get("content"):
        refusal = message.get("refusal")
        return refusal if isinstance(refusal, str) else ""
    return message_text(Row(where, message))


def lm_eval_rows(values: Values, where: str) -> Iterator[dict[str, Any]]:
    """Yield the replies of a sample that lm-evaluation-harness logged; the prompt is the first argument.

    >>> sample = {"doc_id": 3, "resps": [["Mix."]], "arguments": {"gen_args_0": {"arg_0": "Q: Bread?"}}}
    >>> [(row["request"], row["response"]) for row in lm_eval_rows(sample, "a:1")]
    [('Q: Bread?', 'Mix.')]
    """
    arguments = values.get("arguments")
    requests = list(_fields(arguments).values()) or _items(arguments)
    first = requests[0] if requests else None
    prompt = _fields(first).get("arg_0") or next(iter(_items(first)), None)
    texts = [text for one in _items(values.get("resps")) for text in (_items(one) or [one])]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"{where}: resps: expected generated texts, got {str(values.get('resps'))[:40]!r}; choose a task that "
            "generates text"
        )
    for number, text in enumerate(texts):
        yield {
            "id": values.get("doc_id"),
            "request": prompt if isinstance(prompt, str) else None,
            "answer": values.get("target"),
            "response": text,
            "sample": number,
        }


def promptfoo_rows(values: Values, where: str) -> Iterator[dict[str, Any]]:
    """Yield the reply of a result of promptfoo; an error is an unanswered prompt."""
    response, prompt = _fields(values.get("response")), _fields(values.get("prompt"))
    provider = values.get("provider")
    output = response.get("output")
    row = {"request": prompt.get("raw"), "model": _fields(provider).get("id") or provider, "response": output}
    if output is None:
        error = str(values.get("error") or response.get("error") or "promptfoo has no output")[:200]
        row |= {"response": "", "unanswered": "failed", "reason": error}
    yield row


def is_promptfoo(values: Values) -> bool:
    """Return whether the prompt and the response of a row are objects of promptfoo."""
    return "raw" in _fields(values.get("prompt")) and not isinstance(values.get("response"), str)


SAMPLES = ("outputs", "responses", "completions", "generations", *REPLY)


def has_samples(values: Values) -> bool:
    """Return whether a row has a list of replies."""
    return _samples_name(values) is not None


def _samples_name(values: Values) -> str | None:
    """Return the column with a list of replies: texts, or objects with a text (vLLM's outputs)."""
    for name in SAMPLES:
        items = _items(values.get(name))
        if items and all(isinstance(one, str) or isinstance(_fields(one).get("text"), str) for one in items):
            return name
    return None


def sample_rows(values: Values, where: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each of the replies to one prompt.

    A list of as many labels has one for each reply; one label of several replies is that of none.

    >>> [(row["sample"], row["response"]) for row in sample_rows({"prompt": "Tea?", "responses": ["Boil.", "No."]}, "")]
    [(0, 'Boil.'), (1, 'No.')]
    """
    name = _samples_name(values)
    replies = _items(values.get(name or ""))
    others = {key: value for key, value in values.items() if key != name}
    labels = {key: others.pop(key) for key in LABEL & others.keys()} if len(replies) > 1 else {}
    for number, one in enumerate(replies):
        text = one if isinstance(one, str) else _fields(one)["text"]
        own = {key: value[number] for key, value in labels.items() if len(_items(value)) == len(replies)}
        yield others | own | {"response": text, "sample": number}
