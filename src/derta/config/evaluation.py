"""Configuration of evaluation: an attack on a set of requests, and the generation of replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, cast

from pydantic import Field, field_validator, model_validator

from derta.config.decoding import RecipeThreshold, Sampling, sampling_settings
from derta.config.engines import JudgeConfig, SearchSection
from derta.config.sections import Section, SourceSection
from derta.records import Suite

LONGEST_NAME = 200
"""Maximum length of the name of an evaluation or attack, in bytes; file systems allow 255 for a whole file name."""

SectionKey = tuple[str | None, str | None, str | None]  # suite, attack, name


class EvaluationSection(Section):
    """An entry of `evaluate`: one attack on one set of requests, or a file of prompts.

    Attributes:
        attack: Name of the attack (docs/attacks.md).
        options: Options of the attack; `derta list attacks` lists them.
        search: Models of a search attack.
        suite: What the replies count as: `attack`, `over_refusal` or `helpfulness`.
        name: Name of the set of requests in the report.
        max_new_tokens: Maximum number of new tokens of a reply. None: that of `generate`.
        temperature: Temperature of its replies. None: that of `generate`. With 0, it has one greedy reply per prompt.
        top_p: Probability of the nucleus. None: that of `generate`.
        num_samples: Number of replies to each prompt. None: that of `generate`.
        requests: A data source, or `held_out`: the requests held out by `data.held_out_requests`.
        prompts: A JSONL file of `Prompt` records, instead of `attack`, `options` and `requests`. By default each prompt
            counts under its attack; with a `name`, all count in the section's `suite` under that name.
        decontaminate: Drop training data with the section's requests. Set it to false to measure the recall of the
            training data.
        in_means: Whether the section counts in the means over attacks or data sets: those of the report with its
            verdict, of `derta frontier`, and of gates and goals that name no set. If false, it is in all tables, and a
            gate or goal that names it judges it. For requests that the model is not asked to answer, for example.
        judges: Names of judges. A judge that uses a model is `{name: harmbench, model: ..., engine: api}`.
    """

    PATHS = ("prompts",)

    attack: str = "direct"
    requests: SourceSection | Literal["held_out"] | None = None
    prompts: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    search: SearchSection = Field(default_factory=SearchSection)
    suite: Suite = "attack"
    name: str | None = None
    judges: tuple[JudgeConfig, ...] = (JudgeConfig(name="refusal"),)
    decontaminate: bool = True
    in_means: bool = True
    max_new_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    num_samples: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.requests is None) == (self.prompts is None):
            raise ValueError("expected `requests` or a file of `prompts`, and not both")
        if self.prompts is not None and self.model_fields_set & {"attack", "options", "search"}:
            raise ValueError("a file of `prompts` needs no `attack`, `options` or `search`: its prompts are ready")
        if self.prompts is None and self.name is None and self.suite != "attack":
            raise ValueError(f"a section of suite {self.suite} needs a `name` for its set of requests")
        return self

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name is not None and not (name.isprintable() and name.strip(" .") and not {"/", "\\"} & {*name}):
            raise ValueError("expected a name without slashes, because files are named after it")
        if name is not None and len(name.encode()) > LONGEST_NAME:
            raise ValueError(f"expected a name of at most {LONGEST_NAME} bytes, because files are named after it")
        return name

    @field_validator("requests", mode="before")
    @classmethod
    def _parse_requests(cls, requests: object) -> object:
        return {"path": requests} if isinstance(requests, str) and requests != "held_out" else requests

    @field_validator("judges", mode="before")
    @classmethod
    def _parse_judges(cls, judges: object) -> object:
        if not isinstance(judges, list | tuple):
            raise ValueError("expected a list of judges, such as [refusal]")  # noqa: TRY004 - pydantic reports it
        return [{"name": judge} if isinstance(judge, str) else judge for judge in cast(Sequence[object], judges)]

    @property
    def judge_names(self) -> tuple[str, ...]:
        """Names of the judges."""
        return tuple(judge.name for judge in self.judges)

    @property
    def key(self) -> SectionKey:
        """Key of the section: (suite, attack, name). None matches every value that no other section has."""
        if self.prompts is None:
            return self.suite, self.attack, self.name
        return (None, None, None) if self.name is None else (self.suite, None, self.name)

    def sampling(self, generate: GenerateSection) -> Sampling:
        """Return how replies are sampled: its own settings, and else those of `generate`.

        Raises:
            RecipeError: several samples without a temperature.
        """
        own = {name: getattr(self, name) for name in ("temperature", "top_p", "num_samples")}
        given = {name: value for name, value in own.items() if value is not None}
        shared = {} if self.temperature == 0 else generate.sampling_values
        return sampling_settings(f"evaluate: {self.name or self.attack}", **(shared | given))


class GenerateSection(Section):
    """Configuration of generation: decoding and likelihoods, in an engine that loads the tuned models.

    Attributes:
        engine: `hf` or `vllm`. `vllm` does not support attacks on decoding (refusal_ban, rank_assisted).
        settings: Additional settings of the engine, such as `tensor_parallel_size`. Settings of the model are in the
            recipe's other sections.
        max_new_tokens: Maximum number of new tokens of a reply.
        temperature: Temperature of sampled replies; 0 is greedy decoding. See docs/sampling.md.
        top_p: Probability of the nucleus that tokens are drawn from.
        num_samples: Number of replies to each prompt.
        seed: Seed of the samples; the same for all models, whose samples have the same random numbers.
        dtype: Precision of the models that generate.
        batch_tokens: Batch size as rows times tokens, for `hf` only. None: by device and its free memory.
        refusal_threshold: Probability of the refusal words' first tokens from which on one of them is forced; the
            calibration of each model's (`CalibrationSection`); or the file of `derta threshold` for the recipe's only
            model. For `hf` only; `method_settings` can set it for one method. See docs/threshold.md.
    """

    PATHS = ("refusal_threshold",)

    engine: Literal["hf", "vllm"] = "hf"
    settings: dict[str, Any] = Field(default_factory=dict)
    max_new_tokens: int = Field(default=1024, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    num_samples: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    batch_tokens: int | None = Field(default=None, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    refusal_threshold: RecipeThreshold | None = None

    @property
    def sampling_values(self) -> dict[str, Any]:
        """The settings of `derta.sampling.Sampling`."""
        return {name: getattr(self, name) for name in ("temperature", "top_p", "num_samples", "seed")}

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        sampling_settings("generate", **self.sampling_values)
        return self

    @model_validator(mode="after")
    def _forces_in_hf(self) -> Self:
        if self.refusal_threshold is not None and self.engine != "hf":
            raise ValueError(
                f"expected the engine hf with a refusal_threshold, got {self.engine}; docs/threshold.md has servers"
            )
        return self

    @field_validator("engine", mode="before")
    @classmethod
    def _refuse_api(cls, engine: object) -> object:
        if engine == "api":
            raise ValueError(
                "expected hf or vllm, because a run loads the models that it trains; to query a server, serve a tuned "
                "model and use `derta generate --engine api`"
            )
        return engine
