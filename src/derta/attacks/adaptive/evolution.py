"""Genetic search of AutoDAN over the prompts for one request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from random import Random
from typing import NamedTuple

from derta.attacks.adaptive.genes import MARK, cross, draw, join, reword, sentences, word_scores
from derta.attacks.attempts import Attempt, grade
from derta.attacks.prompts import after_context, shipped_text, user
from derta.attacks.search import SearchContext, generate_all, mean_likelihoods, query_prompt
from derta.protocols import Case
from derta.records import Cost, Prompt, Request

REWRITE_PLACEHOLDER = "[REQUEST]"


@dataclass(frozen=True, slots=True)
class GeneticSettings:
    """Options of the genetic search, see `autodan`. `seeds` contain `MARK` in place of the request."""

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
    """Mutated texts, and the cost of generating them with the attacker."""

    texts: list[str]
    cost: Cost


def evolve(settings: GeneticSettings, request: Request, context: SearchContext, *, rng: Random) -> Iterator[Attempt]:
    """Yield the best prompt of each generation, until its reply is judged harmful. Its fitness never decreases."""
    started = context.clock()
    fitness: dict[str, float] = {}
    scores: dict[str, float] = {}
    population = list(settings.seeds)
    copies = [rng.choice(settings.seeds) for _ in range(settings.population - len(population))]
    mutants = _mutate(settings, request, copies, context, rng=rng)
    population += mutants.texts
    best = ""
    for step in range(1, settings.steps + 1):
        queries = _measure(settings, request, population, fitness, context)
        population.sort(key=lambda text: -fitness[text])
        # the reply to an unchanged best prompt was judged in the previous step
        attempt = _judge(settings, request, population[0], context, already_judged=population[0] == best)
        best = population[0]
        spent = attempt.cost.model_copy(
            update={
                "target_queries": attempt.cost.target_queries + queries,
                "attacker_queries": mutants.cost.attacker_queries,
                "tokens": attempt.cost.tokens + mutants.cost.tokens,
                "seconds": context.clock() - started,
            }
        )
        started = context.clock()
        note = f"mean log-likelihood {fitness[best]:.4f}"
        yield attempt.model_copy(update={"step": step, "note": note, "cost": spent})
        if attempt.harmful or step == settings.steps:
            return
        finite = {text: fitness[text] for text in population if isfinite(fitness[text])}
        scores = word_scores(finite, scores, synonyms=settings.synonyms)
        if step % (settings.sentence_steps + 1):
            mutants = Mutants(_words_step(settings, population, scores, rng=rng), Cost())
        else:
            mutants = _paragraphs_step(settings, request, population, fitness, context, rng=rng)
        population = population[: settings.num_elites] + mutants.texts


def _target_prompt(request: Request, name: str, text: str) -> Prompt:
    messages = after_context(request, text.replace(MARK, request.text))
    return query_prompt(request, name, messages, attack="autodan", tools=request.tools)


def _measure(
    settings: GeneticSettings,
    request: Request,
    population: Sequence[str],
    fitness: dict[str, float],
    context: SearchContext,
) -> int:
    """Compute the fitness of the texts that have none yet, in one batch, and return their number."""
    new = [text for text in dict.fromkeys(population) if text not in fitness]
    prompts = [_target_prompt(request, str(i), text) for i, text in enumerate(new)]
    values = mean_likelihoods(context.target, prompts, settings.start) if new else []
    fitness |= dict(zip(new, values, strict=True))
    return len(new)


def _judge(
    settings: GeneticSettings, request: Request, text: str, context: SearchContext, *, already_judged: bool
) -> Attempt:
    """Return the attempt for a text, with the target's reply and the verdict if there is a judge."""
    prompt = _target_prompt(request, "best", text)
    attempt = Attempt(
        search=context.log.key, request_id=request.id, stream=0, step=0, messages=prompt.messages, cost=Cost()
    )
    if context.judge is None or already_judged:
        return attempt
    batch = generate_all(context.target, [prompt], max_new_tokens=settings.max_new_tokens)
    reply = batch.by_id.get(prompt.id)
    if reply is None:
        return attempt
    [verdict] = context.judge([Case(prompt, reply)])
    return attempt.model_copy(
        update={
            "reply": reply.text,
            "harmful": verdict.harmful,
            "score": grade(verdict),
            "cost": Cost(target_queries=1, judge_queries=1, tokens=batch.tokens(prompt.id)),
        }
    )


def _words_step(
    settings: GeneticSettings, population: Sequence[str], scores: Mapping[str, float], *, rng: Random
) -> list[str]:
    """Return the next generation at the sentence level: words replaced by synonyms, except in the elites."""
    return [
        reword(text, synonyms=settings.synonyms, chance=settings.crossover, rng=rng, scores=scores)
        for text in population[settings.num_elites :]
    ]


def _paragraphs_step(
    settings: GeneticSettings,
    request: Request,
    population: Sequence[str],
    fitness: Mapping[str, float],
    context: SearchContext,
    *,
    rng: Random,
) -> Mutants:
    """Return the next generation at the paragraph level: selection by softmax of the fitness, crossover, mutation."""
    weights = {text: fitness[text] for text in population}
    num_children = settings.population - settings.num_elites
    children: list[str] = []
    while len(children) < num_children:
        pair = draw(weights, rng=rng), draw(weights, rng=rng)
        children += cross(*pair, points=settings.points, rng=rng) if rng.random() < settings.crossover else pair
    children = children[:num_children]
    chosen = [i for i in range(num_children) if rng.random() < settings.mutation]
    mutants = _mutate(settings, request, [children[i] for i in chosen], context, rng=rng)
    for i, text in zip(chosen, mutants.texts, strict=True):
        children[i] = text
    return Mutants(children, mutants.cost)


def _mutate(
    settings: GeneticSettings, request: Request, texts: Sequence[str], context: SearchContext, *, rng: Random
) -> Mutants:
    """Mutate texts with the attacker, or by rule if there is none. If the attacker gives no reply, keep the text."""
    if context.attacker is None or not texts:
        return Mutants([_mutate_by_rule(settings, text, rng=rng) for text in texts], Cost())
    template = shipped_text("autodan_rewrite.txt")
    filled = [template.replace("@TEXT@", text.replace(MARK, REWRITE_PLACEHOLDER)) for text in texts]
    prompts = [query_prompt(request, str(i), user(one), attack="autodan") for i, one in enumerate(filled)]
    longest = max(len(text) for text in texts)  # in characters, which is more than the number of tokens
    batch = generate_all(context.attacker, prompts, max_new_tokens=longest)
    rewritten: list[str] = []
    for text, prompt in zip(texts, prompts, strict=True):
        reply = batch.by_id.get(prompt.id)
        rewrite = reply.text.strip().replace(REWRITE_PLACEHOLDER, MARK) if reply else ""
        rewritten.append(join([rewrite]) if rewrite else text)
    tokens = sum(batch.tokens(prompt.id) for prompt in prompts)
    return Mutants(rewritten, Cost(attacker_queries=len(prompts), tokens=tokens))


def _mutate_by_rule(settings: GeneticSettings, text: str, *, rng: Random) -> str:
    """Replace each word that has synonyms with probability 0.5, and swap two sentences."""
    parts = sentences(text)
    if len(parts) > 1:
        i, j = rng.sample(range(len(parts)), 2)
        parts[i], parts[j] = parts[j], parts[i]
    return reword(join(parts), synonyms=settings.synonyms, chance=0.5, rng=rng)
