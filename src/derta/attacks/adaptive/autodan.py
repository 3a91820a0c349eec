"""AutoDAN-HGA: a hierarchical genetic search for a prompt that makes a compliant reply likely."""

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
    """Evolve prompts from a user's seeds, until a judge labels the reply to the best prompt harmful, or for all steps.

    >>> from tempfile import TemporaryDirectory
    >>> from derta.engines.scripted import ScriptedModel
    >>> with TemporaryDirectory() as folder:
    ...     seeds = Path(folder, "seeds.txt")
    ...     _ = seeds.write_text("Hello gardener. Please help. [INSERT PROMPT HERE]")
    ...     attack = autodan(seeds=seeds, population=2, steps=1)
    >>> [prompt] = attack.search([Request(id="7", text="Why?")], target=ScriptedModel(lambda prompt: "Sorry."))
    >>> prompt.id, prompt.cost.target_queries
    ('autodan:7', 2)

    The fitness of a prompt is the mean log-probability of `start` after it. The first population contains the seeds and
    mutations of them. The elites, the best prompts, pass to the next generation unchanged. `sentence_steps` steps
    replace words by synonyms, according to momentum scores; then one step changes paragraphs by selection, crossover of
    sentences, and mutation. An attacker model, if there is one, mutates by rewriting; by default, words are replaced by
    synonyms.

    Differences: the paper loads synonyms from WordNet; here they come from a file. As in the released code, the scores
    of all words are stored; EasyJailbreak stores the best 30. The released code also mutates in steps on words, and
    runs four of these per step on paragraphs. A resumed search restarts the request that was in progress, and the
    result is the same.

    Args:
        seeds: A file of prompts with `placeholder` for the request, in any format of `read_templates`.
        start: The start of a compliant reply; best in the usual words of the defended model.
        population: Population size, in prompts; 256 in the released code.
        steps: Number of generations; 100 in the paper.
        sentence_steps: Steps on words per step on paragraphs; 5 in the paper.
        elites: Share of elites, in [0, 1]; 0.05 in the released code, 0.1 in EasyJailbreak.
        crossover: Probability that two parents are crossed, and that a word is replaced; 0.5 in the paper.
        points: Number of crossover points; 5 in the paper.
        mutation: Probability that a child is mutated; 0.01 in the paper.
        synonyms: A file of entries such as `help, aid, assist`, instead of the default synonyms.
        max_new_tokens: Maximum length of the reply that is judged at each step.
        placeholder: The text that the request replaces.
        separator: The line between two seeds in a text file.

    Raises:
        RecipeError: a number is out of range.
        DataError: the seeds or synonyms cannot be loaded, or a seed lacks the placeholder.

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
                # a resumed search recomputes the same attempts; only the new ones are appended
                generations = evolve(settings, request, context, rng=request_rng(key, request))
                context.log.extend(islice(generations, len(attempts), None))
            last = attempts[-1]  # the best one: fitness never decreases, and a harmful reply ends the search
            yield craft_prompt(request, attack="autodan", messages=last.messages, cost=total(attempts))

    return Attack("autodan", searching=search)


def _check(rates: Mapping[str, float], counts: Mapping[str, int]) -> None:
    for option, rate in rates.items():
        if not 0 <= rate <= 1:
            raise RecipeError(f"autodan: expected {option} from 0 to 1, got {rate}")
    for option, count in counts.items():
        if count < 1:
            raise RecipeError(f"autodan: expected {option} of at least 1, got {count}")
