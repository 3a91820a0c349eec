"""The cases that are exported: a prompt, the reply to it, and the verdicts on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from derta.errors import DataError
from derta.files import read_records
from derta.formats.replies import read_cases
from derta.records import Measure, Prompt, Reply, ReplyKey, Verdict


class JudgedCase(NamedTuple):
    """A case with its verdicts by judge; a judge that was not asked is not among them."""

    prompt: Prompt
    reply: Reply
    verdicts: Mapping[str, Verdict]

    def outcome(self, judge: str, measure: Measure) -> bool | None:
        """A judge's verdict; None where it gave none, or could not tell."""
        verdict = self.verdicts.get(judge)
        return None if verdict is None else verdict.outcome(measure)


def format_prompt(prompt: Prompt) -> str:
    """The prompt as one text without any template: several turns are told apart by their roles.

    A prefill is not part of it.
    """
    messages = prompt.messages or ()
    if len(messages) == 1:
        return messages[0].content
    return prompt.text or "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def read_judged_cases(
    replies: Path, *, judges: Collection[str] = (), prompts: Path | None = None, cell: str | None = None
) -> list[JudgedCase]:
    """The replies of a file with the verdicts beside it (`verdicts.JUDGE.jsonl`): the named judges', or all there are.

    Raises:
        DataError: a judge's verdicts are not there, two are on one reply, or no reply belongs to the cell.
    """
    found = {
        path.name.removeprefix("verdicts.").removesuffix(".jsonl"): path
        for path in sorted(replies.parent.glob("verdicts.*.jsonl"))
    }
    missing = [judge for judge in judges if judge not in found]
    if missing:
        raise DataError(
            f"{replies}: expected verdicts.{missing[0]}.jsonl beside it, found none; write it with "
            f"`derta judge {replies} --judge {missing[0]} --out {replies.parent / f'verdicts.{missing[0]}.jsonl'}`"
        )
    verdicts = {judge: _by_key(path) for judge, path in found.items() if not judges or judge in judges}
    cases = [
        JudgedCase(
            prompt, reply, {judge: by_key[reply.key] for judge, by_key in verdicts.items() if reply.key in by_key}
        )
        for prompt, reply in read_cases(replies, prompts_path=prompts)
    ]
    kept = [case for case in cases if cell in {None, case.prompt.cell}]
    if not kept:
        cells = dict.fromkeys(case.prompt.cell for case in cases)
        raise DataError(f"{replies}: --cell: expected one of {', '.join(cells)}, got {cell!r}")
    return kept


def _by_key(path: Path) -> dict[ReplyKey, Verdict]:
    found: dict[ReplyKey, Verdict] = {}
    for verdict in read_records(path, Verdict):
        if verdict.key in found:
            raise DataError(f"{path}: expected one verdict a reply, got two on {verdict.prompt_id!r}; judge again")
        found[verdict.key] = verdict
    return found
