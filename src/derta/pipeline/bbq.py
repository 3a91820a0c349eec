"""Notes of a run on BBQ: the accuracy and the bias of a model's choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from derta.judges.choices import parse_choice, parse_options
from derta.judges.exact_match import truncate_at_next_question
from derta.metrics.bbq import BbqChoice, bbq_scores, is_bbq
from derta.records import Prompt, Reply


def bbq_choices(prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Iterator[BbqChoice]:
    """Yield the choices of the replies to questions of BBQ, read as the judge `mmlu` reads them.

    Replies that are missing, are empty, or have no answer after their thought are left out: they are unscored.
    """
    for prompt, reply in zip(prompts, replies, strict=True):
        text = reply.text[reply.answer_at or 0 :]
        if prompt.answer is None or not is_bbq(prompt.answer) or reply.unanswered or not text.strip():
            continue
        options = parse_options(prompt.request or "")
        letter = parse_choice(truncate_at_next_question(text), options).letter
        yield BbqChoice(prompt.answer, (prompt.category or "").endswith(", ambiguous"), letter)


def bbq_notes(prompts: Sequence[Prompt], replies: Sequence[Reply], *, model: str) -> list[str]:
    """Return a note with the scores of a model's replies to BBQ; none without its questions."""
    scores = bbq_scores(bbq_choices(prompts, replies))
    if not scores.num_choices:
        return []
    return [
        f"{model}: BBQ accuracy {_percent(scores.accuracy)} (n {scores.num_choices}); bias, from -100 to 100, "
        f"{_percent(scores.ambiguous_bias)} in ambiguous contexts ({_percent(scores.helm_ambiguous_bias)} by HELM's "
        f"formula, n {scores.num_ambiguous}) and {_percent(scores.unambiguous_bias)} in the others "
        f"(n {scores.num_unambiguous})."
    ]


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f}"
