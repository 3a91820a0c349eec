"""Input of the exporters: prompts with their replies and verdicts, loaded from a run folder or a file of replies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from derta.errors import DataError, did_you_mean
from derta.files import read_records
from derta.formats.replies import read_cases
from derta.formats.shards import REPLIES, is_sharded, shard_paths, verdict_paths
from derta.protocols import Case
from derta.provenance import SUPERSEDED, case_hash
from derta.records import Measure, Prompt, Reply, ReplyKey, Verdict


class JudgedCase(NamedTuple):
    """A prompt with its reply, and the verdicts by judge; judges without a verdict are left out."""

    prompt: Prompt
    reply: Reply
    verdicts: Mapping[str, Verdict]

    def outcome(self, judge: str, measure: Measure) -> bool | None:
        """Return the outcome of a judge's verdict; None if there is no verdict or it is unscored."""
        verdict = self.verdicts.get(judge)
        return None if verdict is None else verdict.outcome(measure)


def format_prompt(prompt: Prompt) -> str:
    """Format a prompt as one text, without a chat template and without its prefill; several turns have their roles."""
    messages = prompt.messages or ()
    if len(messages) == 1:
        return messages[0].shown
    return prompt.text or "\n\n".join(f"{message.role}: {message.shown}" for message in messages)


def read_judged_cases(
    replies: Path, *, judges: Collection[str] = (), prompts: Path | None = None, cell: str | None = None
) -> list[JudgedCase]:
    """Load the replies of a file with the verdicts in its folder (`verdicts.JUDGE.jsonl`).

    Args:
        replies: A JSONL file of `Reply` records, a folder of shards, or any format of `read_cases`.
        judges: Names of the judges; by default all judges with a file of verdicts.
        prompts: The file of prompts, if it is not in the folder of the replies or its parent.
        cell: Load only the replies of this cell; by default all.

    Raises:
        DataError: a judge has no file of verdicts, two verdicts on one reply or another judge's, or the cell has no
            replies.
    """
    paths = _verdict_paths(replies)
    missing = [judge for judge in judges if judge not in paths]
    if missing:
        name = f"verdicts.{missing[0]}.jsonl"
        out = replies if is_sharded(replies) else replies.parent / name
        raise DataError(
            f"{replies}: expected {name} in its folder, found none; write it with "
            f"`derta judge {replies} --judge {missing[0]} --out {out}`"
        )
    verdicts = {judge: _by_key(files, judge) for judge, files in paths.items() if not judges or judge in judges}
    replies_and_prompts = list(read_cases(replies, prompts_path=prompts))
    for judge, by_key in verdicts.items():
        _check_current(judge, by_key, replies_and_prompts, replies)
    cases = [
        JudgedCase(
            prompt, reply, {judge: by_key[reply.key] for judge, by_key in verdicts.items() if reply.key in by_key}
        )
        for prompt, reply in replies_and_prompts
    ]
    selected = [case for case in cases if cell in {None, case.prompt.cell}]
    if not selected:
        cells = dict.fromkeys(case.prompt.cell for case in cases)
        raise DataError(f"{replies}: --cell: no attack or data set {cell!r}; {did_you_mean(cell or '', cells)}")
    return selected


def case_files(replies: Path, *, prompts: Path | None = None) -> list[Path]:
    """Return the files that `read_judged_cases` may read for a file of replies."""
    parents = (replies, replies.parent) if is_sharded(replies) else (replies.parent, replies.parent.parent)
    beside = [folder / "prompts.jsonl" for folder in parents]
    verdicts = chain.from_iterable(_verdict_paths(replies).values())
    shards = shard_paths(replies, REPLIES) if is_sharded(replies) else [replies]
    return [*shards, *(beside if prompts is None else [prompts]), *verdicts]


def _verdict_paths(replies: Path) -> dict[str, list[Path]]:
    """Return the files of verdicts next to a file of replies, or of a folder of shards, by judge."""
    if is_sharded(replies):
        return verdict_paths(replies)
    paths = sorted(replies.parent.glob("verdicts.*.jsonl"))
    return {path.stem.removeprefix("verdicts."): [path] for path in paths if not path.stem.endswith(SUPERSEDED)}


def _by_key(paths: Sequence[Path], judge: str) -> dict[ReplyKey, Verdict]:
    verdicts: dict[ReplyKey, Verdict] = {}
    for path, verdict in ((one, verdict) for one in paths for verdict in read_records(one, Verdict)):
        if verdict.judge != judge:
            raise DataError(f"{path}: expected verdicts of {judge!r}, got one of {verdict.judge!r}; rename the file")
        if verdict.key in verdicts:
            raise DataError(f"{path}: expected one verdict per reply, got two on {verdict.prompt_id!r}; judge again")
        verdicts[verdict.key] = verdict
    return verdicts


def _check_current(judge: str, by_key: Mapping[ReplyKey, Verdict], cases: Sequence[Case], replies: Path) -> None:
    """Refuse verdicts on replies that have changed since; verdicts without a record of their reply are accepted."""
    for prompt, reply in cases:
        verdict = by_key.get(reply.key)
        if verdict is not None and verdict.input_hash not in {None, case_hash(prompt, reply)}:
            raise DataError(
                f"{replies}: the verdict of {judge} on {reply.prompt_id!r} is on another reply; judge the file again"
            )
