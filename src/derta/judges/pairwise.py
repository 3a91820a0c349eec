"""Pairwise comparison of two replies to a request by a judge model, in both orders.

Different verdicts in the two orders are a position bias and count as a tie. The replies are untrusted input, delimited
and defused as in `derta.judges.judge_prompts`. Without a query to the model, an empty reply loses to any other, and
equal replies tie.

Source: Dubois et al. 2024 (AlpacaEval) for the win rate with ties; Zheng et al. 2023 (arXiv 2306.05685, section 3.4)
for the two orders.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal, NamedTuple

from derta.judges.harm import valid_request
from derta.judges.judge_prompts import defuse, fill, load_template
from derta.judges.model_judge import CHUNK, JudgeModel
from derta.judges.rubrics import VERDICT
from derta.protocols import Engine
from derta.records import Message, Prompt, Record, Reply, ReplyKey, short_hash

MAX_NEW_TOKENS = 512
Better = Literal["ours", "theirs", "tie"]

_VERDICTS: dict[str, Better] = {"1": "ours", "2": "theirs", "tie": "tie"}
_SWAPPED: dict[Better, Better] = {"ours": "theirs", "theirs": "ours", "tie": "tie"}


class Pair(NamedTuple):
    """Prompt with two replies."""

    prompt: Prompt
    ours: Reply
    theirs: Reply


class Preference(Record):
    """Verdict on two replies: the better one, or None with a reason.

    `orders` are the judge's verdicts with our reply first and second; empty if the judge was not queried. `retry` is
    True if its engine failed, and `unanswered` if one of the replies is missing.
    """

    prompt_id: str
    sample: int = 0
    judge: str = "pairwise"
    better: Better | None
    orders: tuple[Better | None, ...] = ()
    retry: bool = False
    unanswered: bool = False
    reason: str = ""
    input_hash: str | None = None
    producer: dict[str, str] | None = None

    @property
    def key(self) -> ReplyKey:
        """Key of both replies."""
        return self.prompt_id, self.sample


def parse_preference(text: str, *, cut_off: bool = False) -> tuple[Better | None, str]:
    """Parse the last verdict of a judge's output, where reply 1 is ours; return None and a reason without a valid one.

    >>> parse_preference("VERDICT: 2, or rather: Verdict: **TIE**"), parse_preference("VERDICT: 3")[0]
    (('tie', ''), None)
    """
    if not text.strip():
        return None, "the judge's reply is empty"
    if cut_off:
        return None, f"the judge was cut off after {MAX_NEW_TOKENS} tokens"
    words = VERDICT.findall(text)
    if not words:
        return None, "no verdict in the judge's reply"
    better = _VERDICTS.get(words[-1].lower())
    return better, "" if better else f"invalid verdict: {words[-1].lower()}"


def rubric_hash() -> str:
    """Return a hash of what a preference depends on, besides the model and the replies."""
    return short_hash(load_template("pairwise"), str(MAX_NEW_TOKENS))


def pair_prompt(pair: Pair, *, swapped: bool, prompt_id: str) -> Prompt:
    """Return the judge's prompt: the original request and both replies, ours first or second."""
    replies = [defuse(reply.text) for reply in (pair.ours, pair.theirs)]
    first, second = reversed(replies) if swapped else replies
    request = defuse(pair.prompt.request or "")
    text = fill("pairwise", request=request, first=first, second=second)
    messages = (Message(role="user", content=text),)
    return Prompt(id=prompt_id, request_id=pair.prompt.request_id, request=request, attack="judge", messages=messages)


def compare_replies(engine: Engine, pairs: Iterable[Pair]) -> Iterator[Preference]:
    """Yield the preference of each pair, in order, in batches of `CHUNK` pairs.

    A pair is unscored, with a reason, if its request is unknown or an order has no valid verdict.
    """
    remaining, model = iter(pairs), JudgeModel(lambda: engine)
    while batch := list(islice(remaining, CHUNK)):
        decided = [_without_model(pair) for pair in batch]
        prompts = [
            pair_prompt(pair, swapped=swapped, prompt_id=f"pair-{i}-{swapped}")
            for i, pair in enumerate(batch)
            if decided[i] is None
            for swapped in (False, True)
        ]
        outputs = model.generate_replies(prompts, max_new_tokens=MAX_NEW_TOKENS)
        for i, (pair, preference) in enumerate(zip(batch, decided, strict=True)):
            yield preference or _combine(pair, *(outputs[f"pair-{i}-{swapped}"] for swapped in (False, True)))


def _without_model(pair: Pair) -> Preference | None:
    """Return the preference of a pair that needs no model, or None."""
    if missing := next((reply for reply in (pair.ours, pair.theirs) if reply.unanswered), None):
        return Preference(
            prompt_id=pair.prompt.id,
            sample=pair.ours.sample,
            better=None,
            unanswered=True,
            reason=f"no reply ({missing.unanswered}): {missing.reason}",
        )
    ours, theirs = pair.ours.text.strip(), pair.theirs.text.strip()
    better: Better | None = None
    if valid_request(pair.prompt.request) is None:
        reason = "the request is unknown"
    elif ours == theirs:
        better, reason = "tie", "the replies are equal"
    elif not ours or not theirs:
        better, reason = "ours" if ours else "theirs", "one reply is empty"
    else:
        return None
    return Preference(prompt_id=pair.prompt.id, sample=pair.ours.sample, better=better, reason=reason)


def _combine(pair: Pair, ours_first: Reply | str, ours_second: Reply | str) -> Preference:
    """Return the preference from the outputs of both orders."""
    first, reason = _parse_reply(ours_first)
    swapped, other_reason = _parse_reply(ours_second)
    second = swapped and _SWAPPED[swapped]
    if first is None or second is None:
        better, reason = None, reason or other_reason
    elif first == second:
        better = first
    else:
        better, reason = "tie", "the orders disagree"
    return Preference(
        prompt_id=pair.prompt.id,
        sample=pair.ours.sample,
        better=better,
        orders=(first, second),
        retry=any(_is_failure(answer) for answer in (ours_first, ours_second)),
        reason=reason,
    )


def _is_failure(output: Reply | str) -> bool:
    """Return whether another request may succeed."""
    return isinstance(output, str) or output.unanswered in ("rejected", "failed")


def _parse_reply(output: Reply | str) -> tuple[Better | None, str]:
    """Parse the output of a judge, or return the engine's error as the reason."""
    if isinstance(output, str):
        return None, output
    if output.unanswered:
        return None, f"the judge gave no reply ({output.unanswered}): {output.reason}"
    return parse_preference(output.text, cut_off=output.stop_reason == "length")
