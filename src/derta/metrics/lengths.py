"""Answers to benign prompts beside refusals: their length in tokens, and the perplexity of held-out answers.

Both are ratios to the baseline's, paired by prompt or answer, with bootstrap intervals; the seeds of one prompt are one
pair. A method that answers everything, but shortly, or whose language got worse, is not as helpful as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import exp
from statistics import fmean
from typing import TYPE_CHECKING

from derta.metrics.axes import matching
from derta.metrics.bootstrap import Interval, bootstrap_ratios, ratio_of_means
from derta.metrics.outcomes import Outcome, outside_sets, request_key
from derta.records import Reply
from derta.results import AnswerLength, Cell, Place, cell_of, place_of
from derta.stats import Rate, bootstrap_mean

if TYPE_CHECKING:
    from derta.metrics.units import Floats

HELD_OUT = "held-out helpful answers"
Lengths = dict[str, dict[str, list[Reply]]]
"""Replies with known tokens, by set and prompt."""


def answer_tokens(reply: Reply) -> int | None:
    """Return the number of generated tokens of a reply's answer, without a thought; None if it is unknown.

    >>> answer_tokens(Reply(prompt_id="1", text="Mix it.", token_ids=(1, 2), token_starts=(0, 3)))
    2
    """
    if reply.token_ids is None or reply.unanswered is not None:
        return None
    if reply.answer_at is None or reply.token_starts is None:
        return len(reply.token_ids)
    return sum(start >= reply.answer_at for start in reply.token_starts)


def answer_lengths(outcomes: Sequence[Outcome], *, baseline: str) -> Iterator[AnswerLength]:
    """Yield the mean length of each method's answers to each set of benign prompts, and its ratio to the baseline's."""
    base = _replies(outcomes, baseline)
    outside = _outside(outcomes)
    for method in dict.fromkeys(one.method for one in outcomes):
        for name, prompts in _replies(outcomes, method).items():
            replies = [reply for ones in prompts.values() for reply in ones]
            ratio = None if method == baseline else length_ratio(prompts, base.get(name, {}))
            yield AnswerLength(
                method=method,
                name=name,
                tokens=fmean(map(_tokens, replies)),
                ratio=ratio and ratio.value,
                low=ratio and ratio.low,
                high=ratio and ratio.high,
                replies=len(replies),
                cut_off=fmean(reply.stop_reason == "length" for reply in replies),
                in_means=name not in outside,
            )


def length_ratio(own: Mapping[str, Sequence[Reply]], base: Mapping[str, Sequence[Reply]]) -> Interval | None:
    """Return the ratio of two methods' mean lengths on the prompts that both answered; None without such prompts."""
    return ratio_of_means(*_paired_means(own, base))


def _paired_means(own: Mapping[str, Sequence[Reply]], base: Mapping[str, Sequence[Reply]]) -> tuple[Floats, Floats]:
    """Return two methods' mean lengths on each prompt that both answered."""
    import numpy as np

    shared = [prompt for prompt in own if prompt in base]
    ours, theirs = (np.array([fmean(map(_tokens, ones[prompt])) for prompt in shared]) for ones in (own, base))
    return ours, theirs


def pooled_length_ratio(
    own: Sequence[Outcome], base: Sequence[Outcome], *, sets: Sequence[str] = ()
) -> tuple[Interval, int] | None:
    """Return the mean over sets of the ratio of two methods' lengths, and the number of prompts; None without pairs.

    Args:
        own: The seeds of a method.
        base: The seeds of the other.
        sets: Names of sets, or patterns; by default all benign sets but those outside the means.
    """
    import numpy as np

    ours, theirs = _replies(own, own[0].method if own else ""), _replies(base, base[0].method if base else "")
    names = [name for name in _chosen(ours, sets, outcomes=[*own, *base]) if name in theirs]
    ratios: list[Floats] = []
    count = 0
    for name in names:
        means = _paired_means(ours[name], theirs[name])
        if means[1].sum():  # also 0 without pairs
            ratios.append(bootstrap_ratios(*means, seed=len(ratios)))
            count += len(means[1])
    if not ratios:
        return None
    drawn = np.mean(ratios, axis=0)
    return Interval.of(drawn[0], drawn[1:]), count


def _chosen(found: Lengths, sets: Sequence[str], *, outcomes: Sequence[Outcome]) -> list[str]:
    outside = _outside(outcomes)
    return matching(found, sets) if sets else [name for name in found if name not in outside]


def _outside(outcomes: Sequence[Outcome]) -> set[str]:
    return {name for suite, name in outside_sets(outcomes) if suite != "attack"}


def cut_off_share(outcomes: Sequence[Outcome], *, sets: Sequence[str] = ()) -> float:
    """Return the share of one method's replies to benign prompts that reach the token limit; `sets` as above."""
    found = _replies(outcomes, outcomes[0].method)
    names = _chosen(found, sets, outcomes=outcomes)
    return fmean(one.stop_reason == "length" for name in names for ones in found[name].values() for one in ones)


def length_cells(outcomes: Sequence[Outcome], *, baseline: str) -> Iterator[Cell]:
    """Yield the ratio of each method's answer lengths to the baseline's, a cell for each set of benign prompts."""
    places = {place_of(one).name: place_of(one) for each in outcomes for one in each.prompts}
    for one in answer_lengths(outcomes, baseline=baseline):
        if one.ratio is not None:
            seed = _seed(outcomes, one.method)
            numbers = Rate(one.ratio, one.low, one.high, one.replies, 0)
            place = places[one.name]._replace(suite="analysis")
            yield cell_of(numbers, place=place, method=one.method, seed=seed, judge="none", measure="length_ratio")


def perplexity_ratio(own: Sequence[Outcome], base: Sequence[Outcome]) -> tuple[Interval, int] | None:
    """Return the ratio of two methods' perplexities on held-out answers, and the number of answers.

    It is exp of the mean difference of the losses (nats a token, each answer weighing the same), paired by answer and
    seed; the seeds of one answer are one unit of the bootstrap.
    """
    others = {one.seed: one.answer_losses for one in base}
    only = base[0].answer_losses if len(base) == 1 else ()  # of a model without training, which has no seeds
    shifts: dict[int, list[float]] = {}
    for one in own:
        losses = others.get(one.seed, only)
        if len(losses) == len(one.answer_losses):  # other held-out answers are no pairs
            for number, (a, b) in enumerate(zip(one.answer_losses, losses, strict=True)):
                shifts.setdefault(number, []).append(a - b)
    mean = bootstrap_mean([fmean(each) for each in shifts.values()])
    if mean.value is None or mean.low is None or mean.high is None:
        return None
    return Interval(exp(mean.value), exp(mean.low), exp(mean.high)), sum(map(len, shifts.values()))


def perplexity_cells(outcomes: Sequence[Outcome], *, baseline: str) -> Iterator[Cell]:
    """Yield the ratio of each method's perplexity of held-out answers to the baseline's."""
    base = [one for one in outcomes if one.method == baseline]
    for method in dict.fromkeys(one.method for one in outcomes if one.method != baseline):
        found = perplexity_ratio([one for one in outcomes if one.method == method], base)
        if found is not None:
            ratio, count = found
            yield cell_of(
                Rate(*ratio, count, 0),
                place=Place("analysis", HELD_OUT),
                method=method,
                seed=_seed(outcomes, method),
                judge="none",
                measure="perplexity_ratio",
            )


def _replies(outcomes: Sequence[Outcome], method: str) -> Lengths:
    found: Lengths = {}
    for one in outcomes:
        if one.method == method:
            prompts = {prompt.id: prompt for prompt in one.prompts if prompt.suite != "attack"}
            for reply in one.replies:
                if reply.prompt_id in prompts and answer_tokens(reply) is not None:
                    prompt = prompts[reply.prompt_id]
                    found.setdefault(place_of(prompt).name, {}).setdefault(request_key(prompt), []).append(reply)
    return found


def _tokens(reply: Reply) -> int:
    return answer_tokens(reply) or 0


def _seed(outcomes: Sequence[Outcome], method: str) -> int | None:
    """Return the seed of a method with one seed, else None: the seeds are pooled."""
    seeds = [one.seed for one in outcomes if one.method == method]
    return seeds[0] if len(seeds) == 1 else None
