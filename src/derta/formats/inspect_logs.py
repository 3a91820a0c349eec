"""Reading of Inspect's logs: `.eval` archives and `.json` files, without the package inspect-ai."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from derta.errors import DataError
from derta.files import decode, format_json_error, parse_json
from derta.formats.conversations import message_text
from derta.sources import Row, fields_of, read_zip

_ATTACHMENT = "attachment://"


def is_log(value: object) -> bool:
    """Return whether a JSON document is a log: an object with the `eval` and its `samples`."""
    if not isinstance(value, dict):
        return False
    fields = cast("dict[str, Any]", value)
    return isinstance(fields.get("eval"), dict) and isinstance(fields.get("samples"), list)


def log_rows(value: object, *, where: str) -> Iterator[Row]:
    """Yield the rows of a log in JSON."""
    for index, sample in enumerate(cast("dict[str, Any]", value)["samples"]):
        yield _row(Row(f"{where}: samples[{index}]", sample))


def archive_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of an `.eval` archive, in the order of its members' names.

    Raises:
        DataError: no archive of samples, or a damaged one.
    """
    for name, raw in read_zip(path, pattern="samples/*.json", allow_colons=True):
        where = f"{path}:{name}"
        try:
            value = parse_json(decode(raw, where=where))
        except (ValueError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{where}: expected JSON, got text that is not ({format_json_error(error)})") from error
        yield _row(Row(where, value))


def _row(sample: Row) -> Row:
    """Return the row of a sample: its input and messages, its first output, and what our export stored."""
    fields = fields_of(sample)
    attachments = _mapping(fields.get("attachments"))
    metadata = _mapping(fields.get("metadata"))
    row: dict[str, Any] = {"sample": _sample_number(fields.get("epoch")), **_prompt(fields, sample.where, attachments)}
    row["id"] = metadata.get("prompt_id", fields.get("id"))
    row["request_id"] = metadata.get("request_id")
    row |= {name: metadata[name] for name in ("request", "category", "mode") if metadata.get(name)}
    if metadata.get("cell"):
        row["attack"] = metadata["cell"]
    answer = metadata.get("answer") if "answer" in metadata else fields.get("target")  # ours have a target in any case
    if isinstance(answer, str) and answer:
        row["answer"] = answer
    return Row(sample.where, row | _output(fields.get("output"), fields.get("error"), sample.where, attachments))


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _sample_number(epoch: Any) -> int:
    """Return the number of a sample from 0; epochs count from 1."""
    return max(epoch - 1, 0) if isinstance(epoch, int) else 0


def _prompt(fields: Mapping[str, Any], where: str, attachments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request of a sample's input, and the messages that the model received, without its last answer."""
    value = fields.get("input")
    if not isinstance(value, str | list):
        raise DataError(f"{where}: input: expected a text or messages, got {str(value)[:40]!r}; write the log again")
    texts = [value] if isinstance(value, str) else _user_texts(cast("list[Any]", value), where)
    request = {"request": _resolve(texts[-1], attachments)} if texts else {}
    sent = fields.get("messages") or (value if isinstance(value, list) else [])
    messages = [_message(Row(f"{where}: messages", one), attachments) for one in cast("list[Any]", sent)]
    if fields.get("messages") and messages[-1]["role"] == "assistant" and _mapping(fields.get("output")).get("choices"):
        messages.pop()
    return request | ({"messages": messages} if messages else {})


def _user_texts(messages: Sequence[Any], where: str) -> list[str]:
    rows = [Row(f"{where}: input", one) for one in messages]
    return [message_text(row) for row in rows if fields_of(row).get("role") == "user"]


def _message(message: Row, attachments: Mapping[str, Any]) -> dict[str, Any]:
    fields = fields_of(message)
    return {"role": fields.get("role"), "content": _resolve(message_text(message), attachments)}


def _output(value: Any, error: Any, where: str, attachments: Mapping[str, Any]) -> dict[str, Any]:
    output = _mapping(value)
    choices = output.get("choices")
    if not isinstance(choices, list) or not choices:
        reason = _mapping(error).get("message") or output.get("error") or "the log has no output of the model"
        return {"response": "", "unanswered": "failed", "reason": str(reason)[:200]}
    choice = _mapping(cast("list[Any]", choices)[0])
    text = _resolve(message_text(Row(f"{where}: output", choice.get("message"))), attachments)
    filtered = choice.get("stop_reason") == "content_filter" and not text
    more = {"unanswered": "filtered", "reason": "content_filter"} if filtered else {}
    return {"response": text, "model": output.get("model"), **more}


def _resolve(text: str, attachments: Mapping[str, Any]) -> str:
    """Return the text; Inspect stores a long one once, in the attachments of its sample."""
    stored = attachments.get(text.removeprefix(_ATTACHMENT)) if text.startswith(_ATTACHMENT) else None
    return stored if isinstance(stored, str) else text
