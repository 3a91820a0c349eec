"""Requests of `derta triples` written from a policy: forbidden, borderline and harmless ones for each clause.

A model lists requests, a few in one reply. Those that repeat others are dropped and asked for again in later rounds,
whose prompts show what is there already.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from derta.config import PolicyRequests
from derta.data.cleaning import opens_with_refusal
from derta.data.duplicates import SeenTexts
from derta.data.listed import list_items
from derta.data.matching import match_key
from derta.data.policy import Clause, read_clauses
from derta.errors import DataError, escape_hidden
from derta.files import write_records
from derta.pipeline.asking import answer_of
from derta.pipeline.triples.asking import Models, ask_model
from derta.pipeline.triples.rows import (
    NO_COST,
    ClauseSummary,
    Cost,
    Dropped,
    Origin,
    WrittenRequest,
    dropped_reply,
    origin_of,
)
from derta.protocols import Case, Display
from derta.records import Message, Prompt, Request, short_hash

Kind = Literal["requests", "borderline", "lookalikes"]
"""Kind of requests: forbidden by the clause, near its limit, or harmless with its topic and words."""
KINDS: tuple[Kind, ...] = get_args(Kind)
EXTRA_ROUNDS = 2
"""Rounds for the requests that are missing because others were dropped."""
_COMMON_WORDS = 8
SHOWN = 30
"""Number of requests that a prompt shows as written already."""


class WrittenRequests(NamedTuple):
    """The model, the kept requests of each kind, the dropped ones and counts by clause, and the cost."""

    source: str
    kept: dict[Kind, list[WrittenRequest]]
    dropped: list[Dropped]
    clauses: list[ClauseSummary]
    cost: Cost

    def requests(self, kind: Kind = "requests") -> list[Request]:
        """Return the requests of a kind, whose category is the id of their clause."""
        return [Request(id=one.id, text=one.text, category=one.category) for one in self.kept[kind]]

    def origins(self, kind: Kind = "requests") -> dict[str, Origin]:
        """Return the origin of each request of a kind, by id."""
        return {one.id: one.origin for one in self.kept[kind]}


def write_requests(
    section: PolicyRequests, *, out: Path, models: Models, display: Display = Display()
) -> WrittenRequests:
    """Return requests for each clause of a policy, written by a model.

    Those near the limit are written to `borderline.jsonl`, harmless ones to `lookalikes.jsonl`. The requests of a kind
    are no near duplicates of each other, and none is equal to one of another kind.

    Args:
        section: The policy, the model, and the number of requests for each clause.
        out: The folder; the prompts and replies of each round are in it, so a stopped stage resumes.
        models: The loaded model, if any.
        display: Shows progress.

    Raises:
        DataError: the policy cannot be read, or the model wrote no forbidden request.
        EngineError, ModelError: as in `ask_model`.
    """
    clauses = read_clauses(section.policy)
    writing = _Writing(section, clauses)
    for number in range(count_rounds(section)):
        prompts = list(writing.prompts(number))
        if not prompts:
            break
        answered = ask_model(
            models,
            section,
            prompts,
            path=replies_path(out, number),
            max_new_tokens=section.max_new_tokens,
            description=f"requests from the policy, round {number + 1}",
            sampling=section.sampling,
            display=display,
        )
        writing.add_cost(answered.cost)
        for case in answered.cases:
            writing.add(case)
    written = writing.result()
    if not written.kept["requests"]:
        reasons = dict(Counter(one.reason for one in written.dropped))
        raise DataError(
            f"{section.model}: expected requests for {len(clauses)} clauses, got none that can be used ({reasons}); "
            "use another model, or bring requests"
        )
    for kind in KINDS[1:]:
        if count_wanted(section, kind):
            write_records(out / f"{kind}.jsonl", written.kept[kind])
    return written


def shortfall_notes(section: PolicyRequests, clauses: Sequence[ClauseSummary]) -> list[str]:
    """Return a note for each clause that has fewer requests of a kind than were asked for."""
    return [
        f"clause {one.clause}: {kept} of {wanted} {kind} were written"
        for one in clauses
        for kind in KINDS
        if (kept := getattr(one, kind)) < (wanted := count_wanted(section, kind))
    ]


def replies_path(out: Path, number: int) -> Path:
    """Return the path of the replies of a round."""
    return out / f"policy{number + 1}.replies.jsonl"


def count_rounds(section: PolicyRequests) -> int:
    """Return the maximum number of rounds."""
    return max(_count_rounds(section, kind) for kind in KINDS)


def _count_rounds(section: PolicyRequests, kind: Kind) -> int:
    wanted = count_wanted(section, kind)
    return -(-wanted // section.per_call) + EXTRA_ROUNDS if wanted else 0


def count_calls(section: PolicyRequests, *, clauses: int) -> int:
    """Return the maximum number of replies: those of all rounds of each kind that is asked for.

    >>> section = PolicyRequests(policy="policy.md", model="org/writer", per_clause=20, lookalikes=0)
    >>> count_calls(section, clauses=3)
    24
    """
    return clauses * section.num_samples * sum(_count_rounds(section, kind) for kind in KINDS)


def count_wanted(section: PolicyRequests, kind: Kind) -> int:
    """Return the number of requests of a kind for each clause."""
    wanted = {"requests": None, "borderline": section.borderline, "lookalikes": section.lookalikes}[kind]
    return section.per_clause if wanted is None else wanted


class _Writing:
    """The state of the rounds: the kept requests by kind and clause, and the dropped ones."""

    def __init__(self, section: PolicyRequests, clauses: Sequence[Clause]) -> None:
        self._section = section
        self._clauses = {clause.id: clause for clause in clauses}
        self._seen = SeenTexts(clause.text for clause in clauses)
        self._kept: defaultdict[tuple[Kind, str], list[WrittenRequest]] = defaultdict(list)
        self._dropped: defaultdict[str, list[Dropped]] = defaultdict(list)
        self._cost = NO_COST

    def prompts(self, number: int) -> Iterator[Prompt]:
        """Yield the prompts of a round: one for each kind and clause with missing requests and rounds left."""
        for kind in KINDS:
            wanted = count_wanted(self._section, kind)
            if number >= _count_rounds(self._section, kind):
                continue
            for clause in self._clauses.values():
                kept = self._kept[kind, clause.id]
                if missing := wanted - len(kept):
                    count = min(missing, self._section.per_call)
                    earlier = [one.text for one in kept[-SHOWN:]]
                    yield request_prompt(clause, kind, count=count, earlier=earlier, number=number)

    def add_cost(self, cost: Cost) -> None:
        """Add the cost of a round."""
        self._cost = self._cost.plus(cost)

    def add(self, case: Case) -> None:
        """Add the requests that a reply lists."""
        kind, clause = _kind_and_clause(case.prompt)
        origin = origin_of(self._section.model, case.prompt, case.reply)
        kept = self._kept[kind, clause]
        items = list_items(answer_of(case.reply))
        instructions = match_key(instructions_of(self._clauses[clause], kind))
        if reason := _reply_reason(case, items):
            self._dropped[clause].append(dropped_reply("policy", case.reply, reason))
            return
        for number, text in enumerate(items, start=1):
            is_cut = case.reply.stop_reason == "length" and number == len(items)
            reason = "cut_off" if is_cut else text_reason(text, longest=self._section.longest)
            if reason is None and repeats_instructions(text, instructions):
                reason = "repeats_the_prompt"
            if reason is None and len(kept) >= count_wanted(self._section, kind):
                reason = "surplus"
            if (reason := reason or self._seen.add(text, group=kind)) is None:
                name = f"{clause}/{short_hash(kind, match_key(text))}"
                kept.append(WrittenRequest(id=name, text=text, category=clause, origin=origin))
            else:
                dropped = Dropped(
                    stage="policy", id=f"{case.prompt.id}, item {number}", sample=case.reply.sample, reason=reason
                )
                self._dropped[clause].append(dropped)

    def result(self) -> WrittenRequests:
        """Return all requests, in the order of kinds and clauses."""
        kept: dict[Kind, list[WrittenRequest]] = {
            kind: [one for clause in self._clauses for one in self._kept[kind, clause]] for kind in KINDS
        }
        summaries = [
            ClauseSummary(
                clause=clause,
                dropped=dict(Counter(one.reason for one in self._dropped[clause]).most_common()),
                **{kind: len(self._kept[kind, clause]) for kind in KINDS},
            )
            for clause in self._clauses
        ]
        dropped = [one for each in self._dropped.values() for one in each]
        return WrittenRequests(self._section.model, kept, dropped, summaries, self._cost)


def request_prompt(clause: Clause, kind: Kind, *, count: int, earlier: Sequence[str], number: int) -> Prompt:
    """Return the prompt for some requests of a kind for a clause; `earlier` are those that it should not repeat."""
    text = instructions_of(clause, kind, count=count, earlier=earlier)
    return Prompt(
        id=f"{kind}{number + 1}:{clause.id}",
        request_id=f"{kind}:{clause.id}",
        request=clause.text,
        attack="direct",
        messages=(Message(role="user", content=text),),
        category=clause.id,
    )


def instructions_of(clause: Clause, kind: Kind, *, count: int = 1, earlier: Sequence[str] = ()) -> str:
    """Return the text of a prompt for some requests of a kind."""
    template = (files("derta.pipeline.triples") / "texts" / f"{kind}_instructions.txt").read_text(encoding="utf-8")
    shown = "\n".join(["", "", "These are there already; write others:", *(f"- {text}" for text in earlier)])
    values = {"clause": clause.text, "count": str(count), "earlier": shown if earlier else ""}
    return _fill(template.strip(), values)


def repeats_instructions(text: str, instructions: str) -> bool:
    """Return whether a text is part of the instructions, or has a part of them: some eight words in a row.

    >>> repeats_instructions("2. Do not quote the rule.", match_key("Write a list. Do not quote the rule."))
    False
    >>> repeats_instructions("Do not quote the rule.", match_key("Write a list. Do not quote the rule."))
    True
    """
    words = match_key(text).split()
    size = min(len(words), _COMMON_WORDS)
    return any(" ".join(words[at : at + size]) in instructions for at in range(len(words) - size + 1))


def _kind_and_clause(prompt: Prompt) -> tuple[Kind, str]:
    kind, _, clause = prompt.request_id.partition(":")
    return next(one for one in KINDS if one == kind), clause


def _fill(template: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)


def _reply_reason(case: Case, items: Sequence[str]) -> str | None:
    """Return why a whole reply is not used; None if it lists something."""
    if case.reply.unanswered is not None:
        return f"unanswered_{case.reply.unanswered}"
    text = answer_of(case.reply)
    if not text:
        return "empty"
    if opens_with_refusal(text):
        return "refused"
    return None if items else "no_list"


def text_reason(text: str, *, longest: int) -> str | None:
    r"""Return why a text of a list is no request, or None if it may be one.

    >>> [text_reason(text, longest=30) for text in ("Bake bread?", "Bread.", "I'm sorry, but I can't.", "a b\u202e")]
    [None, 'too_short', 'refused', 'hidden_characters']
    """
    if len(text) > longest:
        return "too_long"
    if escape_hidden(text) != text:
        return "hidden_characters"
    if len(match_key(text)) < 8:
        return "too_short"
    return "refused" if opens_with_refusal(text) else None
