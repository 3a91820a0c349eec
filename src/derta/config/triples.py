"""Configuration of `derta triples`: the requests, and the models that write the texts of triples and counter rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from derta.config.decoding import Sampling, sampling_settings
from derta.config.engines import EngineConfig, JudgeConfig
from derta.config.environment import check_names, expand_section, expand_variables
from derta.config.recipe import format_fault, overridden_values
from derta.config.sections import Section, Sources, SourceSection
from derta.errors import RecipeError
from derta.records import REFUSAL_WORDS, Text

Form = Literal["direct", "prefill", "completing"]
"""Form of the prompt for a harmful response: the request alone, with the start of an answer, or as raw text."""
SystemPlace = Literal["auto", "system", "user"]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_judge(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


Judge = Annotated[JudgeConfig, BeforeValidator(_as_judge)]
Forms = Annotated[tuple[Form, ...], BeforeValidator(_as_list), Field(min_length=1)]


class SampledSection(Section):
    """Settings of sampled replies, with the defaults of greedy decoding.

    Attributes:
        temperature: Temperature; 0 is greedy decoding.
        top_p: Probability of the nucleus that tokens are drawn from.
        num_samples: Number of replies to each prompt.
        seed: Random seed of all samples.
    """

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    num_samples: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        _ = self.sampling
        return self

    @property
    def sampling(self) -> Sampling:
        """How the replies are sampled.

        Raises:
            RecipeError: several samples without a temperature.
        """
        values = {name: getattr(self, name) for name in ("temperature", "top_p", "num_samples", "seed")}
        return sampling_settings("sampling", **values)


class HarmfulSection(EngineConfig, SampledSection):
    """The model that writes harmful responses, and which of them are kept; `model`, `engine` and `settings` name it.

    Attributes:
        form: `direct`, `prefill` or `completing` (for base models), or several of them: each prompts every request.
        starts: Starts of an answer for `prefill`; each is a prompt of its own.
        texts: File with rows `id` and `text`: sentences for `completing`, by the id of the request, in place of those
            that rules rewrite; `opening` is the start of the response, by default the sentence.
        max_new_tokens: Maximum number of new tokens of a response.
        keep: Maximum number of responses to a request that become triples; those with the highest scores are kept.
        judge: Judge of harm: its name, or `{name: harmbench, model: …}`.
        on_topic: Drop a response that has no content word of its request (`data.topic`).
    """

    PATHS = (*EngineConfig.PATHS, "texts")

    form: Forms = ("direct",)
    starts: Annotated[tuple[Text, ...], BeforeValidator(_as_list), Field(min_length=1)] = (
        "Sure, here is how to do it.",
        "Step 1:",
    )
    texts: str | None = None
    max_new_tokens: int = Field(default=512, ge=1)
    keep: int = Field(default=1, ge=1)
    judge: Judge = JudgeConfig(name="harm")
    on_topic: bool = True

    @model_validator(mode="after")
    def _check_forms(self) -> Self:
        for key, values in (("form", self.form), ("starts", self.starts)):
            if len(set(values)) < len(values):
                raise ValueError(f"expected each `{key}` once, got {list(values)}")
        if self.texts is not None and "completing" not in self.form:
            raise ValueError("expected the form `completing` with `texts`, got another; remove one of them")
        return self


class SafeSection(SampledSection):
    """The model that writes safe responses, or the templates that they are drawn from.

    Attributes:
        model: Model that refuses. None: the responses are drawn from templates.
        engine: Engine of that model.
        settings: Settings of that engine.
        policy: Policy that the model follows: what is not allowed, and what is.
        policy_file: Text file with the policy, in place of `policy`.
        policy_in: Where the instructions are: the `system` message, the `user` message, or `auto`: the system message,
            unless the chat template refuses one.
        templates: YAML file with templates, in place of those of the package.
        responses: Number of different safe responses to a harmful one; each pair is a triple. Of a model, they are
            samples.
        max_new_tokens: Maximum number of new tokens of a response.
        normalize: Shorten an apology at the start to the first refusal word, before the start is checked.
    """

    PATHS = (*EngineConfig.PATHS, "policy_file", "templates")

    model: str | None = None
    engine: str = "hf"
    settings: dict[str, Any] = Field(default_factory=dict)
    policy: Text | None = None
    policy_file: str | None = None
    policy_in: SystemPlace = "auto"
    templates: str | None = None
    responses: int = Field(default=1, ge=1)
    max_new_tokens: int = Field(default=160, ge=1)
    normalize: bool = True

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        of_model = {"engine", "settings", "policy", "policy_file", "policy_in", "max_new_tokens"}
        of_model |= {*SampledSection.model_fields}
        if self.model is None and (given := sorted(of_model & self.model_fields_set)):
            raise ValueError(f"expected a `model` with `{given[0]}`, got none")
        if self.model is not None and self.templates is not None:
            raise ValueError("expected a `model` or `templates`, got both; remove one")
        if self.model is not None and self.responses > self.num_samples:
            raise ValueError(
                f"expected as many `num_samples` of the model as `responses` ({self.responses}) or more, got "
                f"{self.num_samples}; set it, with a `temperature`"
            )
        if self.policy is not None and self.policy_file is not None:
            raise ValueError("expected `policy` or `policy_file`, got both; remove one")
        return self

    @property
    def engine_config(self) -> EngineConfig | None:
        """Configuration of the model's engine; None without a model."""
        if self.model is None:
            return None
        return EngineConfig(model=self.model, engine=self.engine, settings=self.settings)


class CounterpartSection(EngineConfig):
    """The model that writes benign counterparts of the requests, and answers them.

    Attributes:
        requests: Data sources of benign requests that are answered too, such as requests that look harmful.
        answers: Model that answers the counterparts and these requests. None: the model that writes counterparts.
        judge: Judge of harm for the answers. None: their harm is not checked, and the summary says so. The embedded
            judge `harm` takes every full answer for harmful, because it knows no topics.
        max_new_tokens: Maximum number of new tokens of an answer.
    """

    requests: Sources[SourceSection] = ()
    answers: EngineConfig | None = None
    judge: Judge | None = None
    max_new_tokens: int = Field(default=512, ge=1)

    @field_validator("judge")
    @classmethod
    def _knows_topics(cls, judge: JudgeConfig | None) -> JudgeConfig | None:
        if judge is not None and judge.name == "harm":
            raise ValueError("expected a judge that knows topics, got harm; use one that asks a model, or none")
        return judge


class PolicyRequests(EngineConfig, SampledSection):
    """A written policy, and the model that writes requests for each of its clauses.

    Attributes:
        policy: File with the clauses: Markdown or text with headings or list items, or YAML with `id` and `clause`.
        per_clause: Number of requests for each clause that it forbids.
        borderline: Number of borderline requests for each clause. None: `per_clause`.
        lookalikes: Number of harmless requests for each clause that look forbidden. None: `per_clause`.
        per_call: Maximum number of requests that one prompt asks for.
        longest: Maximum length of a request in characters.
        max_new_tokens: Maximum number of new tokens of a reply, which lists requests.
    """

    PATHS = (*EngineConfig.PATHS, "policy")

    policy: str
    per_clause: int = Field(default=20, ge=1, le=10_000)
    borderline: int | None = Field(default=None, ge=0, le=10_000)
    lookalikes: int | None = Field(default=None, ge=0, le=10_000)
    per_call: int = Field(default=10, ge=1, le=100)
    longest: int = Field(default=600, ge=1)
    max_new_tokens: int = Field(default=1024, ge=1)


def _kind_of_requests(values: object) -> str:
    """Return the class of `requests`, a policy or data sources, as the tag by which `walk` finds it."""
    of_policy = isinstance(values, PolicyRequests) or (isinstance(values, dict) and "policy" in values)
    return "PolicyRequests" if of_policy else "SourceSection"


Requests = Annotated[
    Annotated[PolicyRequests, Tag("PolicyRequests")] | Annotated[Sources[SourceSection], Tag("SourceSection")],
    Discriminator(_kind_of_requests),
]


class TriplesConfig(Section):
    """Configuration of `derta triples`.

    Attributes:
        requests: Data sources of the harmful requests, or a policy with a model that writes them.
        harmful: The model that writes harmful responses.
        safe: The model that writes safe responses, or templates.
        counterpart: The model that writes benign counterparts. None: no counter rows are made.
        refusal_words: Words that a safe response opens with: those of the recipe that trains on the triples.
        licence: Note on licences, which every row carries. None: one that names the models.
    """

    requests: Requests = ()
    harmful: HarmfulSection
    safe: SafeSection = Field(default_factory=SafeSection)
    counterpart: CounterpartSection | None = None
    refusal_words: Annotated[tuple[Text, ...], BeforeValidator(_as_list), Field(min_length=1)] = REFUSAL_WORDS
    licence: Text | None = None

    @property
    def policy_requests(self) -> PolicyRequests | None:
        """The policy that requests are written from; None if data sources have them."""
        return self.requests if isinstance(self.requests, PolicyRequests) else None

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        """Configurations of all models, those of judges included."""
        parts = [self.policy_requests, self.harmful, self.harmful.judge.engine_config]
        parts += [self.safe.engine_config, self.counterpart]
        if self.counterpart is not None:
            judge = self.counterpart.judge
            parts += [self.counterpart.answers, None if judge is None else judge.engine_config]
        return tuple(part for part in parts if part is not None)


def parse_triples_config(values: Any, *, where: str = "triples") -> TriplesConfig:
    """Validate the values of a configuration of `derta triples`.

    >>> parse_triples_config({"harmful": {"model": "org/base", "form": "completing"}}).harmful.form
    ('completing',)
    >>> parse_triples_config({"harmful": {"model": "org/base", "froms": 1}})
    Traceback (most recent call last):
    derta.errors.RecipeError: triples: unknown key `harmful.froms`; did you mean 'form'?

    Raises:
        RecipeError: an unknown key or an invalid value.
    """
    if not isinstance(values, Mapping):
        raise RecipeError(
            f"{where}: expected a mapping of keys, got {type(values).__name__}; docs/triples.md has an example"
        )
    try:
        return TriplesConfig.model_validate(values)
    except ValidationError as error:
        fault = format_fault(error.errors(include_url=False)[0], start=TriplesConfig)
        raise RecipeError(f"{where}: {fault}") from error


def load_triples_config(
    path: Path, *, overrides: Mapping[str, Any] | None = None, env: Sequence[str] = ()
) -> TriplesConfig:
    """Load a YAML configuration of `derta triples`, with the environment variables in its paths expanded.

    Args:
        path: The file.
        overrides: Values by dotted key (`harmful.form`) that replace those of the file.
        env: Environment variables that it may use in paths, in addition to `DERTA_*`.

    Raises:
        RecipeError: the file is missing or not YAML, or has a key, a value or a variable that is not valid.
    """
    allowed = check_names(env)
    values = overridden_values(path, overrides=overrides, env=allowed)
    return expand_triples_config(parse_triples_config(values, where=str(path)), env=allowed)


def expand_triples_config(config: TriplesConfig, *, env: Collection[str] = ()) -> TriplesConfig:
    """Return a configuration with the environment variables in its paths expanded."""

    def expand(key: str, text: str) -> str:
        return expand_variables(text, key=key, env=env)

    return expand_section(config, expand, path_options=lambda _section: ())
