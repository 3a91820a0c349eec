"""Configuration of evaluation: engines, judges, attacks, generation settings, and fine-tuning attacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, field_validator, model_validator

from derta.config.decoding import RecipeThreshold, Sampling, sampling_settings
from derta.config.sections import Section, Sources, SourceSection
from derta.records import Suite

LONGEST_NAME = 200
"""Maximum length of the name of an evaluation or attack, in bytes; file systems allow 255 for a whole file name."""

SectionKey = tuple[str | None, str | None, str | None]  # suite, attack, name


_ENGINE_PATHS = ("model", "settings.tokenizer", "settings.adapter", "settings.template")


class EngineConfig(Section):
    """Configuration of an engine: the model to load, the name of the engine, and its settings.

    Attributes:
        model: Folder or hub id; with `api`, the model's name on the server.
        engine: `hf` (Transformers, in this process), `vllm`, or `api` (an OpenAI-compatible server).
        settings: Settings of the engine, such as `endpoints` or `dtype`; see docs/serving.md.
    """

    PATHS = _ENGINE_PATHS

    model: str
    engine: str = "hf"
    settings: dict[str, Any] = Field(default_factory=dict)


class JudgeConfig(Section):
    """Configuration of a judge: its name and, if the judge uses a model, the fields of `EngineConfig`.

    Attributes:
        name: Name of the judge (docs/judges.md); a judge without a model may be written as its name alone.
        model: Model of the judge, for those that use one.
        engine: Engine of that model.
        settings: Settings of that engine.
    """

    PATHS = _ENGINE_PATHS

    name: str
    model: str | None = None
    engine: str = "hf"
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _require_model(self) -> Self:
        if self.model is None and (self.engine != "hf" or self.settings):
            raise ValueError("expected a `model` with `engine` or `settings`, got none")
        return self

    @property
    def engine_config(self) -> EngineConfig | None:
        """Configuration of the judge's model; None if no model is set."""
        if self.model is None:
            return None
        return EngineConfig(model=self.model, engine=self.engine, settings=self.settings)


class SearchSection(Section):
    """Models of a search attack, in addition to its target.

    Attributes:
        attacker: Model that generates prompts. PAIR and escalation require it; it is optional for AutoDAN.
        judge: Judge that scores replies during the search. The final prompts are judged by the evaluation's `judges`.
        judge_model: Model of that judge, if it uses one.
    """

    attacker: EngineConfig | None = None
    judge: str | None = None
    judge_model: EngineConfig | None = None

    @property
    def judge_config(self) -> JudgeConfig | None:
        """Configuration of the judge with its model; None if no judge is set."""
        model = {} if self.judge_model is None else self.judge_model.model_dump()
        return None if self.judge is None else JudgeConfig(name=self.judge, **model)


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


class FineTuningPace(Section):
    """Training hyperparameters of a fine-tuning attack; the defaults depend on the data, as in Qi et al.

    Device, lengths, packing, adapters and checkpoints are configured in `train`. The options of `train` for the rows
    and losses of methods have no effect here.

    Attributes:
        learning_rate: None: 2e-5 on helpful data, 5e-5 on harmful data; both are for full fine-tuning.
        global_batch_size: Rows of an optimizer step. None: 128 on helpful data, 10 on harmful data.
        lr_scheduler_type: Name of Hugging Face's learning rate schedule.
        warmup_steps: Number of warmup steps, or their share if below 1.
        weight_decay: Weight decay.
        num_train_epochs: None: 1 on helpful data, 5 on harmful data. Ignored if the attack sets `steps`.
    """

    learning_rate: float | None = Field(default=None, gt=0)
    global_batch_size: int | None = Field(default=None, ge=1)
    num_train_epochs: float | None = Field(default=None, gt=0)
    lr_scheduler_type: str = "constant"
    warmup_steps: float = Field(default=0.0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)


class FineTuningSection(Section):
    """A fine-tuning attack: each tuned model is trained further with next-token loss, then evaluated on all prompts.

    Attributes:
        name: Name of the attack in the names of attacked models: `derta + benign 100` after 100 steps of `benign`.
        steps: Number of optimizer steps. Each number of a list trains another attacked model from the tuned model.
            None: the steps of `pace.num_train_epochs`.
        helpful: Benign data, in the formats of `data.helpful`.
        harmful: Harmful data, in the formats of `data.triples`; the harmful responses are the labels.
        pace: Training hyperparameters of the attack.

    Source: Qi et al., Fine-tuning Aligned Language Models Compromises Safety, arXiv 2310.03693, section 4; the
    hyperparameters are from LLM-Tuning-Safety/LLMs-Finetuning-Safety, commit 8a3b38f, llama2/tier1 … tier3 (two
    processes of 5 or 64 rows). Its learning rate is multiplied by 0.85 after each epoch; here it is constant.
    """

    name: str = Field(pattern=r"^[\w.-]+$", max_length=LONGEST_NAME // 4)
    steps: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, min_length=1)
    helpful: Sources[SourceSection] = ()
    harmful: Sources[SourceSection] = ()
    pace: FineTuningPace = Field(default_factory=FineTuningPace)

    @field_validator("steps", mode="before")
    @classmethod
    def _parse_steps(cls, steps: object) -> object:
        return [steps] if isinstance(steps, int) and not isinstance(steps, bool) else steps

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        if bool(self.helpful) == bool(self.harmful):
            raise ValueError("expected sources of `helpful` data or of `harmful` data, and not both")
        if self.steps and len(set(self.steps)) < len(self.steps):
            raise ValueError("expected each number of steps once")
        return self
