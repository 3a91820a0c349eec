"""A recipe's sections on the tuned models: what they are asked, in which engine, and how they are attacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, field_validator, model_validator

from derta.config.sections import Section, SourceSection
from derta.records import Suite

SectionKey = tuple[str | None, str | None, str | None]  # suite, attack, name


class EngineConfig(Section):
    """A model and the engine that runs it: what the engine loads, the name of the engine, and its settings."""

    model: str
    engine: str = "hf"
    settings: dict[str, Any] = Field(default_factory=dict)


class JudgeConfig(Section):
    """A judge of an evaluation: its name and, if it asks a model, the model as in `EngineConfig`."""

    name: str
    model: str | None = None
    engine: str = "hf"
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _settings_of_a_model(self) -> Self:
        if self.model is None and (self.engine != "hf" or self.settings):
            raise ValueError("expected a `model` beside `engine` and `settings`")
        return self

    @property
    def engine_config(self) -> EngineConfig | None:
        """The model that the judge asks; None if none is named."""
        if self.model is None:
            return None
        return EngineConfig(model=self.model, engine=self.engine, settings=self.settings)


class SearchSection(Section):
    """Who takes part in an attack that searches, beside the model it is aimed at.

    Attributes:
        attacker: Who writes prompts: PAIR and escalation need one; AutoDAN may have one.
        judge: Who tells the search how far it is. The prompts it finds are judged by the evaluation's `judges`.
        judge_model: What that judge asks, if it asks a model.
    """

    attacker: EngineConfig | None = None
    judge: str | None = None
    judge_model: EngineConfig | None = None

    @property
    def judge_config(self) -> JudgeConfig | None:
        """The judge with its model; None if none is named."""
        model = {} if self.judge_model is None else self.judge_model.model_dump()
        return None if self.judge is None else JudgeConfig(name=self.judge, **model)


class EvaluationSection(Section):
    """One attack over one set of requests, or a file of prompts that are ready.

    Attributes:
        requests: A source's, or the queries that `data.held_out_requests` keeps.
        prompts: A JSONL file of `Prompt` records, in place of `attack`, `options` and `requests`. Each keeps its own
            attack; with a `name`, all count in the section's `suite` under that name.
        decontaminate: Whether training data that asks the section's requests is dropped. Not wanted where the section
            measures whether what was taught is still known.
        judges: Names of judges, or a judge that asks a model as `{name: harmbench, model: ..., engine: api}`.
    """

    attack: str = "direct"
    requests: SourceSection | Literal["held_out"] | None = None
    prompts: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    search: SearchSection = Field(default_factory=SearchSection)
    suite: Suite = "attack"
    name: str | None = None
    judges: tuple[JudgeConfig, ...] = (JudgeConfig(name="refusal"),)
    decontaminate: bool = True
    max_new_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.requests is None) == (self.prompts is None):
            raise ValueError("expected `requests` or a file of `prompts`, and not both")
        if self.prompts is not None and self.model_fields_set & {"attack", "options", "search"}:
            raise ValueError("a file of `prompts` needs no `attack`, `options` or `search`: its prompts are ready")
        if self.prompts is None and self.name is None and self.suite != "attack":
            raise ValueError(f"a section of suite {self.suite} needs a `name` for its set of requests")
        return self

    @field_validator("name")
    @classmethod
    def _fits_a_file(cls, name: str | None) -> str | None:
        if name is not None and not (name.isprintable() and name.strip() and not {"/", "\\"} & {*name}):
            raise ValueError("expected a name without slashes, because files are named after it")
        return name

    @field_validator("judges", mode="before")
    @classmethod
    def _names_alone(cls, judges: object) -> object:
        if not isinstance(judges, list | tuple):
            raise ValueError("expected a list of judges, such as [refusal]")  # noqa: TRY004 - pydantic tells it
        return [{"name": judge} if isinstance(judge, str) else judge for judge in cast(Sequence[object], judges)]

    @property
    def judge_names(self) -> tuple[str, ...]:
        """The names of the judges."""
        return tuple(judge.name for judge in self.judges)

    @property
    def key(self) -> SectionKey:
        """What tells the evaluations of a recipe apart; None stands for any that no other section has."""
        if self.prompts is None:
            return self.suite, self.attack, self.name
        return (None, None, None) if self.name is None else (self.suite, None, self.name)


class GenerateSection(Section):
    """How replies are generated, and likelihoods measured: greedily, by an engine that loads the tuned models.

    Attributes:
        engine: `hf`, or `vllm`, which heeds no attack that bends decoding (refusal_ban, rank_assisted).
        settings: More of the engine's own settings, such as `tensor_parallel_size`; the model's are the recipe's.
        batch_tokens: hf: rows times tokens of a batch; vllm makes its own batches.
    """

    engine: Literal["hf", "vllm"] = "hf"
    settings: dict[str, Any] = Field(default_factory=dict)
    max_new_tokens: int = Field(default=1024, ge=1)
    batch_tokens: int = Field(default=16384, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"

    @field_validator("engine", mode="before")
    @classmethod
    def _no_server(cls, engine: object) -> object:
        if engine == "api":
            raise ValueError(
                "expected hf or vllm, because a run loads the models that it trains; to ask a server, serve a tuned "
                "model and use `derta generate --engine api`"
            )
        return engine


class FineTuningPace(Section):
    """How a fine-tuning attack trains; what is None follows from its data, as in Qi et al.

    Machine, lengths, packing, adapters and checkpoints are as in `train`. What shapes the methods' own rows and losses
    there has no meaning here.

    Attributes:
        learning_rate: None: 2e-5 on helpful data, 5e-5 on harmful data; both were for full fine-tuning.
        global_batch_size: Rows of a step. None: 128 on helpful data, 10 on harmful data.
        num_train_epochs: None: 1 on helpful data, 5 on harmful data. The attack's `steps` go before them.
    """

    learning_rate: float | None = Field(default=None, gt=0)
    global_batch_size: int | None = Field(default=None, ge=1)
    num_train_epochs: float | None = Field(default=None, gt=0)
    lr_scheduler_type: str = "constant"
    warmup_steps: float = Field(default=0.0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)


class FineTuningSection(Section):
    """An attack by fine-tuning: each tuned model is trained on, with plain next-token loss, and all is asked again.

    Attributes:
        name: What attacked models are called by: `derta + benign 100` after 100 steps of the attack `benign`.
        steps: Optimizer steps. Each of a list makes attacked models of its own, all from the tuned model on. None:
            as many as `pace.num_train_epochs` take.
        helpful: Benign data, read as `data.helpful`.
        harmful: Harmful data, read as `data.triples`; the harmful answers are learned.

    Source: Qi et al., Fine-tuning Aligned Language Models Compromises Safety, arXiv 2310.03693, section 4; the pace
    from LLM-Tuning-Safety/LLMs-Finetuning-Safety, commit 8a3b38f, llama2/tier1 … tier3 (two processes of 5 or 64 rows).
    Its learning rate falls by 0.85 after each epoch; here it stays.
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    steps: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, min_length=1)
    helpful: tuple[SourceSection, ...] = ()
    harmful: tuple[SourceSection, ...] = ()
    pace: FineTuningPace = Field(default_factory=FineTuningPace)

    @field_validator("steps", mode="before")
    @classmethod
    def _one_or_many(cls, steps: object) -> object:
        return [steps] if isinstance(steps, int) and not isinstance(steps, bool) else steps

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.helpful) == bool(self.harmful):
            raise ValueError("expected sources of `helpful` data or of `harmful` data, and not both")
        if self.steps and len(set(self.steps)) < len(self.steps):
            raise ValueError("expected each number of steps once")
        return self
