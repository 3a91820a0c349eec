"""AutoDAN-HGA: a hierarchical genetic search over a prompt, for the likelihood of a compliant start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random

from derta.attacks.adaptive.evolution import GeneticSettings, evolve
from derta.attacks.adaptive.genes import MARK, join, read_synonyms
from derta.attacks.attempts import total
from derta.attacks.base import Attack, request_rng
from derta.attacks.building import factory
from derta.attacks.prompts import craft_prompt, shipped_lines
from derta.attacks.search import SearchContext
from derta.attacks.static.jailbreak_chat import PLACEHOLDER, read_templates
from derta.errors import RecipeError
from derta.records import Prompt, Request
from derta.sources import SEPARATOR, read_texts


@factory
def autodan(
    *,
    seeds: str | Path,
    start: str = "Sure, here is",
    population: int = 256,
    steps: int = 100,
    sentence_steps: int = 5,
    elites: float = 0.05,
    crossover: float = 0.5,
    points: int = 5,
    mutation: float = 0.01,
    synonyms: str | Path | None = None,
    max_new_tokens: int = 64,
    placeholder: str = PLACEHOLDER,
    separator: str = SEPARATOR,
) -> Attack:
    """Evolve prompts from a user's seeds until a judge finds harm in the reply to the best, or for all steps.

    >>> from tempfile import TemporaryDirectory
    >>> from derta.engines.scripted import ScriptedModel
    >>> with TemporaryDirectory() as folder:
    ...     seeds = Path(folder, "seeds.txt")
    ...     _ = seeds.write_text("Dear gardener. Please help. [INSERT PROMPT HERE]")
    ...     attack = autodan(seeds=seeds, population=2, steps=1)
    >>> [prompt] = attack.search([Request(id="7", text="Why?")], target=ScriptedModel(lambda prompt: "Sorry."))
    >>> prompt.id, prompt.cost.target_queries
    ('autodan:7', 2)

    Fitness is the mean log-probability of `start` after the prompt. After every `sentence_steps` steps on words, by
    their momentum scores, comes one on paragraphs: selection, crossover of sentences, mutation. The best stay as they
    are. The first population is the seeds and mutations of them. A given attacker mutates by rewriting; without one,
    words are replaced by synonyms. The paper takes its synonyms from WordNet; here they are a file's. The scores of all
    words are kept, as in the released code; EasyJailbreak keeps the best 30. The released code mutates in steps on
    words too, and takes four of them for each on paragraphs. A search that was stopped begins the request it was at
    anew, and comes to the same.

    Args:
        seeds: prompts with `placeholder` for the request, in any form that `read_templates` reads.
        start: what a reply that complies begins with; give the defended model's own habit.
        population: how many prompts live at once; the released code's 256.
        steps: how many generations; the paper's 100.
        sentence_steps: steps on words for each on paragraphs; the paper's 5.
        elites: the share of the best that stay; the released code's 0.05; EasyJailbreak has 0.1.
        crossover: the chance that two parents cross, and that a word is replaced; the paper's 0.5.
        points: where parents are cut; the paper's 5.
        mutation: the chance that a child is mutated; the paper's 0.01.
        synonyms: a file of entries such as `help, aid, assist`, in place of the shipped ones.
        max_new_tokens: of the reply that is judged at each step.
        placeholder: what the request replaces.
        separator: a line that parts two seeds of a text file.

    Raises:
        RecipeError: a number that cannot be.
        DataError: the seeds or synonyms cannot be read, or a seed lacks the placeholder.

    Source: Liu et al. 2023, arXiv 2310.04451, algorithm 2 and section 4.1.
    """
    rates = {"elites": elites, "crossover": crossover, "mutation": mutation}
    counts = {"population": population, "steps": steps, "sentence_steps": sentence_steps, "points": points}
    _check(rates, counts)
    texts = read_templates(seeds, placeholder=placeholder, separator=separator)
    if len(texts) > population:
        raise RecipeError(f"autodan: expected a population of at least the {len(texts)} seeds, got {population}")
    lines = shipped_lines("synonyms.txt") if synonyms is None else read_texts(synonyms, what="entry")
    settings = GeneticSettings(
        seeds=tuple(join([text.replace(placeholder, MARK)]) for text in texts),
        synonyms=read_synonyms(lines),
        start=start,
        population=population,
        steps=steps,
        sentence_steps=sentence_steps,
        num_elites=max(1, round(elites * population)),
        crossover=crossover,
        points=points,
        mutation=mutation,
        max_new_tokens=max_new_tokens,
    )

    def search(requests: Sequence[Request], *, context: SearchContext, rng: Random) -> Iterator[Prompt]:
        key = str(rng.getrandbits(64))
        for request in requests:
            attempts = context.log.attempts(request)
            if not attempts or not (attempts[-1].harmful or attempts[-1].step == steps):
                # a search that was stopped makes its attempts again: they are the same, and are kept once
                generations = evolve(settings, request, context, rng=request_rng(key, request))
                context.log.extend(islice(generations, len(attempts), None))
            last = attempts[-1]  # the best never gets worse, and a harmful reply ends the search
            yield craft_prompt(request, attack="autodan", messages=last.messages, cost=total(attempts))

    return Attack("autodan", searching=search)


def _check(rates: Mapping[str, float], counts: Mapping[str, int]) -> None:
    for option, rate in rates.items():
        if not 0 <= rate <= 1:
            raise RecipeError(f"autodan: expected {option} from 0 to 1, got {rate}")
    for option, count in counts.items():
        if count < 1:
            raise RecipeError(f"autodan: expected {option} of at least 1, got {count}")
