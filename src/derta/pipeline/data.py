"""Data of a recipe: sources are loaded, prepared and counted, for training and for evaluation."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from os.path import isdir, isfile
from pathlib import Path

from derta.chat import TemplateSupport
from derta.config import AnswerSource, PrepareConfig, Recipe, SourceSection
from derta.data.fields import REFUSED
from derta.data.helpful import ReadExamples, load_examples, read_examples
from derta.data.matching import RequestTurns, request_turns
from derta.data.preferences import Preference, ReadPreferences, read_preferences
from derta.data.preparation import PreparedData, prepare
from derta.data.triples import ReadTriples, read_triples
from derta.errors import DataError
from derta.files import read_records
from derta.pipeline.distillation import distill_sources, drop_refusals
from derta.pipeline.models import check_engine, shared_format
from derta.pipeline.registry import Registry
from derta.pipeline.request_sources import layout_of, limit_note, read_source
from derta.pipeline.rewriting import rewrite_safety
from derta.protocols import Display
from derta.provenance import model_files, model_hash
from derta.records import Example, Message, Prompt, Tools, Triple

logger = logging.getLogger(__name__)


def prepare_data(
    recipe: Recipe, registry: Registry = Registry(), *, distilled: Path | None = None, display: Display = Display()
) -> PreparedData:
    """Load a recipe's sources and return the prepared data, in the quantities that the recipe's methods need.

    All seeds hold out the same rows, because all models get the same prompts.

    Args:
        recipe: The recipe.
        registry: The caller's methods.
        distilled: The start of the names of the files with the model's own answers (`answers: model`), which are
            generated if they are not there. None, for an estimate: the answers of the source are used instead.
        display: Shows progress.
    """
    data = recipe.data
    faults = TemplateFaults(recipe)
    safety = read_source_triples(data.triples, recipe, faults=faults)
    answered = partial(read_answered, recipe=recipe, faults=faults, distilled=distilled, display=display)
    helpful = answered(data.helpful, kind="helpful")
    counter = drop_refusals(answered(data.counter, kind="counter"), recipe)
    settings = {name: getattr(data, name) for name in PrepareConfig.model_fields}
    requests, pairs = evaluated_requests(recipe), _read_preferences(recipe, faults=faults)
    rewritten = Counter[str]()
    if data.policy == "rewrite":
        settings["policy"] = "keep"  # all that remain refuse
        safety, rewritten = rewrite_safety(safety, recipe, requests=requests, distilled=distilled, display=display)
    try:
        prepared = prepare(
            safety.triples,
            helpful.examples,
            requests=requests,
            preferences=pairs.preferences,
            counter=counter.examples,
            refusal_words=recipe.model.refusal_words,
            seed=recipe.seeds[0],
            triples_per_unit=registry.triples_per_unit(recipe.methods),
            **settings,
        )
    except DataError as error:
        reads = (safety, helpful, counter, pairs)
        first_fault = next((read.first_fault for read in reads if read.first_fault), "")
        if not first_fault:
            raise
        count = sum(read.dropped[REFUSED] for read in reads)
        raise DataError(f"{error}; {count} rows were dropped: {first_fault}") from error
    return prepared._replace(
        dropped_triples=safety.dropped + prepared.dropped_triples,
        changed_triples=rewritten + prepared.changed_triples,
        dropped_examples=helpful.dropped + prepared.dropped_examples,
        dropped_preferences=pairs.dropped + prepared.dropped_preferences,
        dropped_counter=counter.dropped + prepared.dropped_counter,
    )


def evaluation_sources(recipe: Recipe) -> list[SourceSection]:
    """Return the files of requests that must not be trained on."""
    selections = [section.requests for section in recipe.evaluate if section.decontaminate]
    return [
        *(one for one in selections if isinstance(one, SourceSection)),
        *([] if recipe.profile_requests is None else [recipe.profile_requests]),
        *recipe.data.exclude,
    ]


def read_profile(recipe: Recipe) -> list[Example]:
    """Return the examples of `profile_examples`; empty without it."""
    source = recipe.profile_examples
    return [] if source is None else load_examples(source.path, limit=source.limit, **layout_of(source))


def evaluated_requests(recipe: Recipe) -> list[RequestTurns]:
    """Return the requests that must not be trained on, except those held out of the triples."""
    requests = [request_turns(one.conversation) for source in evaluation_sources(recipe) for one in read_source(source)]
    paths = [Path(one.prompts) for one in recipe.evaluate if one.prompts is not None and one.decontaminate]
    prompts = [prompt for path in paths for prompt in read_records(path, Prompt)]
    conversations = [request_turns(prompt.messages or ()) for prompt in prompts]
    later = [turns for turns in conversations if isinstance(turns, tuple) and turns]
    requests += [request_turns(one.messages[:-1]) for one in read_profile(recipe) if len(one.messages) > 1]
    return [*requests, *(one.request for one in prompts if one.request), *later]


def input_files(recipe: Recipe) -> list[Path]:
    """Return the local files that a run depends on: those of training, and those of its evaluations."""
    sources = evaluation_sources(recipe)
    sources += [one.requests for one in recipe.evaluate if isinstance(one.requests, SourceSection)]
    options = [str(value) for section in recipe.evaluate for value in section.options.values()]
    prompts = [section.prompts for section in recipe.evaluate if section.prompts is not None]
    sources += [] if recipe.profile_examples is None else [recipe.profile_examples]
    threshold = [path] if isinstance(path := recipe.generate.refusal_threshold, str) else []
    files = _files_of([*(source.path for source in sources), *prompts, *options, *threshold])
    return [*training_files(recipe), *other_model_files(recipe), *files]


def training_files(recipe: Recipe) -> list[Path]:
    """Return the local files that the models of a run are trained from: base model, chat template, training data."""
    sources = [*recipe.data.triples, *recipe.data.helpful, *recipe.data.counter, *recipe.data.preferences]
    sources += [source for attack in recipe.fine_tuning_attacks for source in (*attack.helpful, *attack.harmful)]
    return [*model_inputs(recipe), *_files_of([source.path for source in sources])]


def model_inputs(recipe: Recipe) -> list[Path]:
    """Return the local files of a recipe's base model, with its chat template."""
    return [*model_files(recipe.model.path), *_files_of([recipe.model.template])]


def other_model_files(recipe: Recipe) -> list[Path]:
    """Return the local files of the models that a recipe evaluates as they are, with their adapters and templates."""
    models = recipe.models.values()
    paths = [path for one in models for path in (one.path, one.adapter) if path is not None]
    return [*(file for path in paths for file in model_files(path)), *_files_of([one.template for one in models])]


def hub_base(recipe: Recipe) -> dict[str, str]:
    """Return the commit of a base model from the hub, for the origin of a training; empty for a local folder."""
    return {} if Path(recipe.model.path).is_dir() else {"base_model": model_hash(recipe.model.path)}


def _files_of(names: Sequence[str]) -> list[Path]:
    folders = [Path(name) for name in names if isdir(name)]  # noqa: PTH112 - of `datasets`
    files = [Path(name) for name in names if isfile(name)]  # noqa: PTH113 - Path.is_file raises on a long text
    return [*files, *(path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())]


def _log_limits(sources: Sequence[SourceSection], counts: Iterable[int], what: str) -> None:
    for source, count in zip(sources, counts, strict=True):
        if note := limit_note(source, count, what):
            logger.info(note)


def read_source_triples(sources: Sequence[SourceSection], recipe: Recipe, *, faults: TemplateFaults) -> ReadTriples:
    """Return the triples of some sources, and the number of dropped ones by reason.

    Triples whose context the chat template of the recipe's model refuses, as one with a system prompt, are dropped.
    """
    read = [
        read_triples(
            s.path,
            limit=s.limit,
            **layout_of(s),
            max_pairs_per_request=recipe.data.max_pairs_per_request,
            fault_of=faults.of_triple,
        )
        for s in sources
    ]
    _log_limits(sources, (len(one.triples) for one in read), "triples")
    return ReadTriples(
        [triple for one in read for triple in one.triples],
        sum((one.dropped for one in read), Counter[str]()),
        next((one.first_fault for one in read if one.first_fault), ""),
    )


def read_source_examples(
    sources: Sequence[SourceSection], *, faults: TemplateFaults, what: str = "helpful examples"
) -> ReadExamples:
    """Return the examples of some sources, and the number of dropped ones by reason; `what` names them in the log.

    Conversations that the chat template of the recipe's model refuses, as one that starts with the assistant, are
    dropped.
    """
    read = [
        read_examples(
            s.path,
            limit=s.limit,
            **layout_of(s),
            fault_of=faults.of_example,
        )
        for s in sources
    ]
    _log_limits(sources, (len(one.examples) for one in read), what)
    return ReadExamples(
        [example for one in read for example in one.examples],
        sum((one.dropped for one in read), Counter[str]()),
        next((one.first_fault for one in read if one.first_fault), ""),
    )


def read_answered(
    sources: Sequence[AnswerSource],
    *,
    recipe: Recipe,
    kind: str,
    faults: TemplateFaults,
    distilled: Path | None,
    display: Display = Display(),
) -> ReadExamples:
    """Return the examples of some sources, with the answers of each source or the model's own (`answers`)."""
    to_distill = [source for source in sources if source.answers == "model"]
    if distilled is None and to_distill:
        display.logger.info("%s: the answers of the source stand in for those of the model (answers: model)", kind)
        to_distill = []
    given = [source for source in sources if source not in to_distill]
    read = read_source_examples(given, faults=faults, what=f"{kind} examples")
    if not to_distill or distilled is None:
        return read
    check_engine(recipe)
    path = distilled.with_name(f"{distilled.name}.{kind}.jsonl")
    own = distill_sources(recipe, to_distill, fault_of=faults.of_example, path=path, display=display)
    return ReadExamples([*read.examples, *own.examples], read.dropped + own.dropped, read.first_fault)


class TemplateFaults:
    """Faults of conversations with the template of a recipe's model (`TemplateSupport`).

    The tokenizer is loaded for the first conversation that is not one question; `chat_format` checks those.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._support: TemplateSupport | None = None

    def of_example(self, example: Example) -> str | None:
        """Return the template's message on the turns before an example's answer, or None."""
        return self._of(example.messages[:-1], example.tools)

    def of_triple(self, triple: Triple) -> str | None:
        """Return the template's message on a triple's context and query, or None."""
        return self._of(triple.conversation, triple.tools)

    def of_preference(self, pair: Preference) -> str | None:
        """Return the template's message on a pair's context and query, or None."""
        return self._of(pair.conversation, pair.tools)

    def _of(self, messages: Sequence[Message], tools: Tools) -> str | None:
        if not tools and [message.role for message in messages] in ([], ["user"]):
            return None
        self._support = self._support or TemplateSupport(shared_format(self._recipe).chat)
        return self._support.fault(messages, tools)


def _read_preferences(recipe: Recipe, *, faults: TemplateFaults) -> ReadPreferences:
    """Return the preference pairs of a recipe's `data.preferences`, and the number of dropped ones by reason."""
    sources = recipe.data.preferences
    read = [
        read_preferences(
            s.path,
            limit=s.limit,
            **layout_of(s),
            fault_of=faults.of_preference,
        )
        for s in sources
    ]
    _log_limits(sources, (len(one.preferences) for one in read), "preferences")
    return ReadPreferences(
        [pair for one in read for pair in one.preferences],
        sum((one.dropped for one in read), Counter[str]()),
        next((one.first_fault for one in read if one.first_fault), ""),
    )
