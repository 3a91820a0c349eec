"""The genetic search of AutoDAN over the prompts for one request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from random import Random
from typing import NamedTuple

from derta.attacks.adaptive.genes import MARK, cross, draw, join, reword, sentences, word_scores
from derta.attacks.attempts import Attempt, grade
from derta.attacks.base import fill, shipped_text, user
from derta.attacks.search import ask_all, ask_prompt, mean_likelihoods
from derta.protocols import Means
from derta.records import Cost, Message, Request

SPOKEN_MARK = "[REQUEST]"


@dataclass(frozen=True, slots=True)
class Settings:
    """How the search evolves; see `autodan`. `seeds` hold the mark in place of the request."""

    seeds: tuple[str, ...]
    synonyms: Mapping[str, Sequence[str]]
    start: str
    population: int
    steps: int
    sentence_steps: int
    num_elites: int
    crossover: float
    points: int
    mutation: float
    max_new_tokens: int


class Mutants(NamedTuple):
    """Mutated texts, and what an attacker's help with them cost."""

    texts: list[str]
    cost: Cost


def evolve(settings: Settings, request: Request, means: Means, *, rng: Random) -> Iterator[Attempt]:
    """The best prompt of each generation, until one's reply is judged harmful; the best never gets worse."""
    begun = means.clock()
    fitness: dict[str, float] = {}
    scores: dict[str, float] = {}
    living = list(settings.seeds)
    copies = [rng.choice(settings.seeds) for _ in range(settings.population - len(living))]
    mutants = _mutate(settings, request, copies, means, rng=rng)
    living += mutants.texts
    best = ""
    for step in range(1, settings.steps + 1):
        queries = _measure(settings, request, living, fitness, means)
        living.sort(key=lambda text: -fitness[text])
        # what the same best prompt says was judged in the step before
        attempt = _judge(settings, request, living[0], means, known=living[0] == best)
        best = living[0]
        spent = attempt.cost.model_copy(
            update={
                "target_queries": attempt.cost.target_queries + queries,
                "attacker_queries": mutants.cost.attacker_queries,
                "tokens": attempt.cost.tokens + mutants.cost.tokens,
                "seconds": means.clock() - begun,
            }
        )
        begun = means.clock()
        note = f"mean log-likelihood {fitness[best]:.4f}"
        yield attempt.model_copy(update={"step": step, "note": note, "cost": spent})
        if attempt.harmful or step == settings.steps:
            return
        taken = {text: fitness[text] for text in living if isfinite(fitness[text])}
        scores = word_scores(taken, scores, synonyms=settings.synonyms)
        if step % (settings.sentence_steps + 1):
            mutants = Mutants(_words_step(settings, living, scores, rng=rng), Cost())
        else:
            mutants = _paragraphs_step(settings, request, living, fitness, means, rng=rng)
        living = living[: settings.num_elites] + mutants.texts


def _shown(request: Request, text: str) -> tuple[Message, ...]:
    return user(fill(text, MARK, request.text))


def _measure(
    settings: Settings, request: Request, living: Sequence[str], fitness: dict[str, float], means: Means
) -> int:
    """Work out the fitness of texts that have none yet, in one batch, and say how many they were."""
    new = [text for text in dict.fromkeys(living) if text not in fitness]
    prompts = [ask_prompt(request, str(i), _shown(request, text), attack="autodan") for i, text in enumerate(new)]
    found = mean_likelihoods(means.target, prompts, settings.start) if new else []
    fitness |= dict(zip(new, found, strict=True))
    return len(new)


def _judge(settings: Settings, request: Request, text: str, means: Means, *, known: bool) -> Attempt:
    """Ask the target, and have its reply judged where there is a judge."""
    prompt = ask_prompt(request, "best", _shown(request, text), attack="autodan")
    attempt = Attempt(search=means.key, request_id=request.id, stream=0, step=0, messages=prompt.messages, cost=Cost())
    if means.score is None or known:
        return attempt
    answers = ask_all(means.target, [prompt], max_new_tokens=settings.max_new_tokens)
    reply = answers.by_id[prompt.id]
    [verdict] = means.score([prompt], [reply])
    return attempt.model_copy(
        update={
            "reply": reply.text,
            "harmful": verdict.harmful,
            "score": grade(verdict),
            "cost": Cost(target_queries=1, judge_queries=1, tokens=answers.tokens(prompt.id)),
        }
    )


def _words_step(settings: Settings, living: Sequence[str], scores: Mapping[str, float], *, rng: Random) -> list[str]:
    """The sentence level: words of all but the elites give way to synonyms, by their momentum scores."""
    return [
        reword(text, synonyms=settings.synonyms, chance=settings.crossover, rng=rng, scores=scores)
        for text in living[settings.num_elites :]
    ]


def _paragraphs_step(
    settings: Settings,
    request: Request,
    living: Sequence[str],
    fitness: Mapping[str, float],
    means: Means,
    *,
    rng: Random,
) -> Mutants:
    """The paragraph level: parents by the softmax of their fitness, crossover of sentences, mutation."""
    weights = {text: fitness[text] for text in living}
    wanted = settings.population - settings.num_elites
    children: list[str] = []
    while len(children) < wanted:
        pair = draw(weights, rng=rng), draw(weights, rng=rng)
        children += cross(*pair, points=settings.points, rng=rng) if rng.random() < settings.crossover else pair
    children = children[:wanted]
    chosen = [i for i in range(wanted) if rng.random() < settings.mutation]
    mutants = _mutate(settings, request, [children[i] for i in chosen], means, rng=rng)
    for i, text in zip(chosen, mutants.texts, strict=True):
        children[i] = text
    return Mutants(children, mutants.cost)


def _mutate(settings: Settings, request: Request, texts: Sequence[str], means: Means, *, rng: Random) -> Mutants:
    """Mutate texts: rewritten by the attacker, or by rule; what the attacker cannot take stays as it is."""
    if means.attacker is None or not texts:
        return Mutants([_mutate_by_rule(settings, text, rng=rng) for text in texts], Cost())
    template = shipped_text("autodan_rewrite.txt")
    told = [fill(template, "@TEXT@", text.replace(MARK, SPOKEN_MARK)) for text in texts]
    prompts = [ask_prompt(request, str(i), user(one), attack="autodan") for i, one in enumerate(told)]
    longest = max(len(text) for text in texts)  # in characters, which is more than it has tokens
    answers = ask_all(means.attacker, prompts, max_new_tokens=longest)
    rewritten: list[str] = []
    for text, prompt in zip(texts, prompts, strict=True):
        reply = answers.by_id.get(prompt.id)
        said = reply.text.strip().replace(SPOKEN_MARK, MARK) if reply else ""
        rewritten.append(join([said]) if said else text)
    tokens = sum(answers.tokens(prompt.id) for prompt in prompts)
    return Mutants(rewritten, Cost(attacker_queries=len(prompts), tokens=tokens))


def _mutate_by_rule(settings: Settings, text: str, *, rng: Random) -> str:
    """Half of the words that have synonyms are replaced, and two sentences change places."""
    parts = sentences(text)
    if len(parts) > 1:
        i, j = rng.sample(range(len(parts)), 2)
        parts[i], parts[j] = parts[j], parts[i]
    return reword(join(parts), synonyms=settings.synonyms, chance=0.5, rng=rng)
