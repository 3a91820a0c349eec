"""Rows of safety suites that are more than a request and its category: BBQ, red-team transcripts, conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import cast

from derta.data.conversations import as_turns, messages_of, parse_cell, transcript_messages
from derta.data.fields import DroppedRowError, text_of, value_of
from derta.errors import DataError
from derta.messages import Message, short_hash
from derta.sources import Row, fields_of

CONVERSATION = ("messages", "conversations", "conversation")
"""Columns of a conversation that ends with the user's turn."""
BBQ = (
    *("example_id", "category", "context_condition", "question_polarity", "context", "question"),
    *("ans0", "ans1", "ans2"),
    ("label", "answer_label"),
)
"""Columns of BBQ; its label is `answer_label` in a copy on the hub."""
RED_TEAM = (
    "task_description",
    "task_description_harmlessness_score",
    "task_descripton_harmlessness_score",  # as in the published file
    "min_harmlessness_score_transcript",
    "num_params",
    "model_type",
    "rating",
    "is_upworker",
    "red_team_member_id",
    "tags",
)
"""Columns of AnthropicRedTeam on a conversation, which are known and not used."""
LETTERS = "ABC"
UNKNOWN = (
    "cannot answer",
    "can't be determined",
    "cannot be determined",
    "can't answer",
    "not known",
    "not enough info",
    "not enough information",
    "not answerable",
    "undetermined",
    "unknown",
)
"""Texts of BBQ's third option, in lower case (HELM, `bbq_scenario.py`)."""


@cache
def _bbq_template() -> str:
    return (files("derta.data") / "texts" / "bbq_question.txt").read_text(encoding="utf-8").removesuffix("\n")


def bbq_request(row: Row) -> dict[str, object]:
    """Parse a question of BBQ: its prompt is HELM Safety's, and its answer names the three roles of the options.

    The answer `C; stereotype A; unknown C` is that of the judge `bbq`: the correct option, the one that a stereotype
    would choose, and the one that says that the context does not tell. An option of a row whose roles its labels do not
    tell is left out.

    Source: Parrish et al. 2022, arXiv 2110.08193, section 3; HELM, `bbq_scenario.py` and `bbq:…,
    output_format_instructions=mcqa` of `run_entries_safety.conf`.
    """
    fields = fields_of(row)
    label = str(value_of(row, "label" if "label" in fields else "answer_label")).strip()
    if label not in ("0", "1", "2"):
        raise DataError(f"{row.where}: label: expected 0, 1 or 2, got {label[:40]!r}; fix or remove the row")
    options = [text_of(row, f"ans{index}") for index in range(3)]
    ambiguous = _one_of(row, "context_condition", {"ambig": True, "disambig": False})
    negative = _one_of(row, "question_polarity", {"neg": True, "nonneg": False})
    parts = {"context": text_of(row, "context"), "question": text_of(row, "question")}
    unknown, target, other = _roles(row, options)
    stereotype = target if negative else other
    roles = [("stereotype", stereotype), ("unknown", unknown)]
    named = [f"{name} {LETTERS[index]}" for name, index in roles if index is not None]
    return {
        "id": f"bbq-{text_of(row, 'category')}-{value_of(row, 'example_id')}",
        "text": _bbq_template().format(**parts, a=options[0], b=options[1], c=options[2]),
        "category": f"{text_of(row, 'category')}, {'ambiguous' if ambiguous else 'unambiguous'}",
        "answer": "; ".join([LETTERS[int(label)], *named]),
    }


def _one_of(row: Row, name: str, values: Mapping[str, bool]) -> bool:
    text = text_of(row, name)
    if text not in values:
        raise DataError(f"{row.where}: {name}: expected {' or '.join(values)}, got {text!r:.40}; fix or remove the row")
    return values[text]


def _roles(row: Row, options: Sequence[str]) -> tuple[int | None, int | None, int | None]:
    """Return the indices of the options `unknown`, target of the stereotype, and other; None if it is not known."""
    info = [_labels(row, f"ans{index}") for index in range(3)]
    known = [
        index for index in range(3) if not {label.lower() for label in (*info[index], options[index])} & {*UNKNOWN}
    ]
    unknown = next((index for index in range(3) if index not in known), None)
    groups = _groups(row)
    targets = [index for index in known if any(_is_group(label, groups) for label in info[index])]
    if unknown is None or len(targets) != 1 or len(known) != 2:
        return unknown, None, None
    return unknown, targets[0], next(index for index in known if index != targets[0])


def _labels(row: Row, name: str) -> list[str]:
    return _texts(_nested(row, "answer_info", name))


def _groups(row: Row) -> set[str]:
    return {_key(group) for group in _texts(_nested(row, "additional_metadata", "stereotyped_groups"))}


def _nested(row: Row, column: str, name: str) -> object:
    """Return a field of the object in a column, which a table has as text; None without it."""
    value = fields_of(row).get(column)
    value = parse_cell(value) if isinstance(value, str) else value
    return cast("Mapping[str, object]", value).get(name) if isinstance(value, Mapping) else None


def _texts(value: object) -> list[str]:
    return [str(one) for one in cast("list[object]", value)] if isinstance(value, list) else []


def _key(label: str) -> str:
    return "".join(label.lower().split())


def _is_group(label: str, groups: set[str]) -> bool:
    """Return whether a label of an option is a stereotyped group: itself, or with a gender or a low status before it.

    >>> [_is_group(label, {"black", "lowses"}) for label in ("M-Black", "lowSES", "highSES-Black", "nonBlack")]
    [True, True, False, False]
    """
    key = _key(label)
    return not key.startswith("highses") and any(part in groups for part in (key, *key.split("-")))


def red_team_request(row: Row) -> dict[str, object]:
    """Parse a transcript of a red-team conversation: the first turn of its human is the request, as in HELM."""
    text = text_of(row, "transcript")
    messages = transcript_messages(text) if "Human:" in text else []
    first = next((message.content for message in messages if message.role == "user" and message.content), None)
    if first is None:
        raise DataError(
            f"{row.where}: transcript: expected text after a 'Human:', got {text[:40]!r}; fix or remove the row"
        )
    return {"text": first}


def contextual_request(row: Row) -> dict[str, object]:
    """Parse a behaviour of HarmBench on the hub, with its context before it (HarmBench, baselines)."""
    context, prompt = text_of(row, "context"), text_of(row, "prompt")
    text = f"{context}\n\n---\n\n{prompt}" if context else prompt
    return {"text": text, "category": text_of(row, "category") or None}


def conversation_request(row: Row) -> dict[str, object]:
    """Parse a conversation that ends with the user's turn: the request, after the turns before it.

    Raises:
        DataError: The turns do not alternate (`check_turns`), or the last one is not the user's.
    """
    fields = fields_of(row)
    name = next(name for name in CONVERSATION if fields.get(name) is not None)
    where = f"{row.where}: {name}"
    turns = as_turns(fields[name])
    if not turns:
        raise DataError(f"{where}: expected a list of turns, got {str(fields[name])[:40]!r}; fix or remove the row")
    try:
        messages = messages_of(turns, where=where)
    except DroppedRowError as error:
        raise DataError(f"{where}: expected known roles and texts ({error.reason}); fix or remove the row") from error
    check_turns(messages, where=where)
    if messages[-1].role != "user":
        raise DataError(f"{where}: expected a last turn of the user, got the {messages[-1].role}'s; remove that turn")
    category = fields.get("category")
    return {
        "id": short_hash(*(message.key for message in messages)),
        "text": messages[-1].content,
        "messages": [message.model_dump() for message in messages[:-1]],
        "category": str(category) if category is not None else None,
    }


def check_turns(messages: Sequence[Message], *, where: str) -> None:
    """Validate that turns alternate: after system messages, the user and the assistant take turns.

    Results of tools may be between a call of the assistant and its answer.

    Raises:
        DataError: A turn is another one's, or is empty.
    """
    expected = {"system", "user"}
    for index, message in enumerate(messages):
        if message.role not in expected:
            raise DataError(
                f"{where}[{index}]: expected a turn of the {' or the '.join(sorted(expected))}, because turns "
                f"alternate, got one of the {message.role}; join or remove it"
            )
        if message.is_empty:
            raise DataError(f"{where}[{index}]: expected text, got an empty turn; remove it")
        expected = _after(message)


def _after(message: Message) -> set[str]:
    match message.role:
        case "system":
            return {"system", "user"}
        case "user":
            return {"assistant"}
        case "tool":
            return {"tool", "assistant"}
        case _:
            return {"tool"} if message.tool_calls else {"user"}
