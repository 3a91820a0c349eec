"""Results of one evaluated model: prompts, replies and verdicts, joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from derta.errors import DataError
from derta.metrics.rates import PromptVerdict
from derta.provenance import hash_value, prompt_hash
from derta.records import Measure, Prompt, Reply, ReplyKey, Suite, Verdict
from derta.token_refusals import TokenRefusal

MeasureOf = Callable[[str, Suite], Measure]
"""Function from a judge's name and a suite to the measure of its rate there."""


SetKey = tuple[Suite, str]
"""Suite and name of a set of prompts: of an attack with its variant, or of a data set."""


class Outcome(NamedTuple):
    """Evaluation results of one model: prompts, replies, and verdicts by judge, joined by prompt id and sample.

    A run's results have one prompt and one verdict of each judge (or None) for each reply, in its order: a prompt with
    several samples is there several times.

    The verdict is None for a reply of an evaluation that the judge does not support. `probabilities` is the
    output of `Engine.refusal_probability` for held-out harmful answers, `benign_probabilities` that for benign ones,
    and `answer_losses` the mean negative log-likelihood of each held-out helpful answer. `fine_tuning` names the
    fine-tuning attack that a model was tuned with further; None for the model of a method. `identities` are those of
    the prompts, by prompt id, where they are computed already (`identified`). `token_refusals` has
    the refusal probability before each token of each reply, None where it is not measured; `answer_refusals` those of
    held-out harmful answers. `outside` has the sets that the recipe leaves out of the means (`in_means`).
    """

    method: str
    seed: int
    prompts: Sequence[Prompt]
    replies: Sequence[Reply]
    verdicts: Mapping[str, Sequence[Verdict | None]]
    probabilities: Sequence[Sequence[float]] = ()
    answer_losses: Sequence[float] = ()
    fine_tuning: str | None = None
    benign_probabilities: Sequence[Sequence[float]] = ()
    identities: Mapping[str, str] = {}
    token_refusals: Sequence[Sequence[float] | None] = ()
    answer_refusals: Sequence[TokenRefusal] = ()
    outside: frozenset[SetKey] = frozenset()

    def prompt_verdicts(self, judge: str, suite: Suite | None = None) -> list[PromptVerdict]:
        """Return the prompts with a judge's verdicts, of one suite or of all (None)."""
        return [(prompt, verdict) for prompt, _, verdict in self.cases(judge) if suite in (None, prompt.suite)]

    def cases(self, judge: str) -> Iterator[tuple[Prompt, Reply, Verdict]]:
        """Yield the prompt, reply and verdict of each verdict of a judge.

        Raises:
            DataError: The reply or the prompt of a verdict is missing.
        """
        prompts = {prompt.id: prompt for prompt in self.prompts}
        replies = {reply.key: reply for reply in self.replies}
        for verdict in self.verdicts.get(judge, ()):
            if verdict is not None:
                if verdict.prompt_id not in prompts or verdict.key not in replies:
                    raise DataError(
                        f"{self.method}, seed {self.seed}: judge {judge!r} has a verdict on {verdict.prompt_id!r} "
                        f"(sample {verdict.sample}), which has no prompt or no reply; pass those of one run"
                    )
                yield prompts[verdict.prompt_id], replies[verdict.key], verdict


def outside_sets(outcomes: Iterable[Outcome]) -> set[SetKey]:
    """Return the sets that the recipe of some model leaves out of the means."""
    return {key for one in outcomes for key in one.outside}


def by_reply(runs: Sequence[Outcome]) -> Iterator[tuple[Prompt, list[Verdict]]]:
    """Yield the prompt of each judged reply with the verdicts of all judges."""
    for run in runs:
        verdicts: dict[ReplyKey, list[Verdict]] = {}
        prompts: dict[ReplyKey, Prompt] = {}
        for judge in run.verdicts:
            for prompt, reply, verdict in run.cases(judge):
                prompts[reply.key] = prompt
                verdicts.setdefault(reply.key, []).append(verdict)
        yield from ((prompts[key], judged) for key, judged in verdicts.items())


def request_key(prompt: Prompt) -> str:
    """Return the request of a prompt, which makes a cluster of its prompts under all attacks."""
    return prompt.request or prompt_hash(prompt)


def identified(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the models with the identities of their prompts, by which those of different models are matched."""
    return [
        one if one.identities else one._replace(identities={prompt.id: _identity(prompt) for prompt in one.prompts})
        for one in outcomes
    ]


def _identity(prompt: Prompt) -> str:
    """Return a hash of what was asked and expected, but for the prompts of a search: of the request."""
    asked = request_key(prompt) if prompt.cost is not None else prompt_hash(prompt)
    return hash_value([asked, prompt.answer, prompt.steps])
