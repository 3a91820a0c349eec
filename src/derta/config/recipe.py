"""A whole run in one YAML file: model, data, training, attacks, judges. Keys are checked; defaults are the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from derta.config.data import DataSection
from derta.config.evaluation import EvaluationSection, FineTuningSection, GenerateSection
from derta.config.recipe_file import read_values
from derta.config.sections import Section, SourceSection, walk
from derta.errors import RecipeError, did_you_mean


class ModelSection(Section):
    """The model to tune: a local folder or a hub id."""

    path: str
    template: str = "auto"
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    refusal_words: tuple[str, ...] = ("Sorry",)
    trust_remote_code: bool = False


class LoraSection(Section):
    """LoRA adapters; the paper's settings.

    Attributes:
        target_modules: Names of the linear layers that are adapted, or a regular expression for them.
        target_parameters: Names of parameters outside linear layers, as fused experts are; needs `lora_dropout: 0`.
        load_in_4bit: Quantize the frozen base to NF4 as it is loaded (QLoRA); needs the extra `quant`.
    """

    r: int = Field(default=96, ge=1)
    lora_alpha: int = 16
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    target_parameters: tuple[str, ...] = ()
    load_in_4bit: bool = False


class TermWeights(Section):
    """What each term of the loss counts for; the paper's are all 1."""

    helpful: float = Field(default=1.0, ge=0)
    safe: float = Field(default=1.0, ge=0)
    rto: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if not (self.helpful or self.safe or self.rto):
            raise ValueError("at least one term must have a weight above 0")
        return self


class TrainSection(Section):
    """How one model is tuned. Paper, full fine-tuning: the defaults; LoRA: 1e-4, no warmup, sorry_dropout 0.

    Attributes:
        step_tokens: Tokens of an optimizer step, in place of `batch_size` rows: an epoch's rows are cut into steps of
            nearly so many, each of one row at least.
        micro_batch_size: Rows that go through the model at once, on average: a step's rows are shared out by length.
        pack_tokens: Rows are packed into sequences of up to this many tokens; 0: one row a sequence, padded.
        group_by_length: Without packing, put rows of like length into the same micro-batch.
        branches_per_triple: Safe rows drawn from a triple, each after a harmful prefix of its own; without a prefix
            (vanilla, rto) there is one. The mixture counts a triple as two instances all the same, so the safe term
            weighs that many times as much, unless `term_weights.safe` makes up for it.
        tree_rows: Lay a triple's rows (RTO, safe branches) over one shared trunk of query and harmful response: the
            same losses from fewer tokens. A tree counts as one row in `batch_size` and `micro_batch_size`.
        normalization: What a step's loss is divided by: its labelled tokens (as Hugging Face does), each row's own
            labelled tokens and then the rows, or each micro-batch's labelled tokens (as the released code does).
    """

    epochs: float = Field(default=2.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=128, ge=1)
    step_tokens: int | None = Field(default=None, ge=1)
    micro_batch_size: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0)
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=2e-5, ge=0)
    max_length: int = Field(default=1024, ge=32)
    pack_tokens: int = Field(default=1024, ge=0)
    group_by_length: bool = False
    branches_per_triple: int = Field(default=1, ge=1)
    tree_rows: bool = False
    term_weights: TermWeights = Field(default_factory=TermWeights)
    normalization: Literal["token", "row", "micro_batch"] = "token"
    sorry_dropout: float = Field(default=0.95, ge=0, lt=1)
    prefix_share: float = Field(default=2 / 3, ge=0, le=1)
    reference: bool = False
    bf16: bool = False
    fp16: bool = False
    attention: Literal["sdpa", "flash_attention_2", "flex_attention", "eager"] = "sdpa"
    compile: bool = False
    gradient_checkpointing: bool = False
    lora: LoraSection | None = None
    logging_steps: int = Field(default=10, ge=1)
    save_steps: int | None = Field(default=None, ge=1)
    report_to: str = "none"
    num_threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch_size must be a multiple of micro_batch_size ({self.micro_batch_size})")
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other")
        if self.group_by_length and self.pack_tokens:
            raise ValueError("group_by_length is for padded rows: set pack_tokens to 0, or leave it out")
        return self

    @model_validator(mode="after")
    def _branches_fit(self) -> Self:
        if self.reference and (self.tree_rows or self.branches_per_triple > 1):
            raise ValueError("reference is the released code, which has no tree_rows and one branches_per_triple")
        if self.reference and (self.normalization == "row" or self.term_weights != TermWeights()):
            raise ValueError("reference is the released code, which has its own normalization and no term_weights")
        if self.reference and (self.step_tokens or self.group_by_length):
            raise ValueError("reference is the released code, which has no step_tokens and no group_by_length")
        if self.attention == "flash_attention_2" and not (self.bf16 or self.fp16):
            raise ValueError("flash_attention_2 computes in 16 bits: set bf16 or fp16")
        if self.tree_rows and self.attention not in ("sdpa", "flex_attention"):
            raise ValueError(f"tree_rows need attention sdpa or flex_attention, not {self.attention}")
        return self


class DpoSection(Section):
    """How `dpo` goes on from the vanilla model; all else is as in `train`. Paper: 5e-7 (8B, full), 2e-6 (70B, LoRA).

    Attributes:
        beta: How dear it is to leave the vanilla model. The paper gives none; TRL's default, Rafailov et al.'s too.
        max_steps: None: `epochs` decides, whatever `train.max_steps` is.
        micro_batch_size: Pairs that go through the model at once: twice as many sequences. None: as in `train`.
        precompute_reference: Work out the vanilla model's log-probabilities once, before training, instead of keeping
            a frozen copy of it in memory.
        pairs: Rows of {query, chosen, rejected} that are learned beside the triples, helpful ones for example.
    """

    beta: float = Field(default=0.1, gt=0)
    learning_rate: float = Field(default=5e-7, gt=0)
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    micro_batch_size: int | None = Field(default=None, ge=1)
    precompute_reference: bool = False
    pairs: tuple[SourceSection, ...] = ()


class Recipe(Section):
    """The whole of a run. Relative paths are taken from the working folder; `$NAME` in a path is the environment's.

    A file may go on from another: `include: other.yaml`, see `recipe_file`.

    `profile_answers` is the number of harmful answers on which the probability of refusing is measured: those of the
    held-out requests, or of `profile_requests`.
    """

    title: str
    seeds: tuple[int, ...] = (0,)
    model: ModelSection
    data: DataSection
    train: TrainSection = Field(default_factory=TrainSection)
    dpo: DpoSection = Field(default_factory=DpoSection)
    methods: tuple[str, ...] = ("vanilla", "derta")
    evaluate: tuple[EvaluationSection, ...] = ()
    generate: GenerateSection = Field(default_factory=GenerateSection)
    profile_answers: int = Field(default=0, ge=0)
    profile_requests: SourceSection | None = None
    fine_tuning_attacks: tuple[FineTuningSection, ...] = ()

    @model_validator(mode="after")
    def _pairs_fit(self) -> Self:
        if self.dpo.micro_batch_size and self.train.batch_size % self.dpo.micro_batch_size:
            raise ValueError(f"dpo.micro_batch_size must divide train.batch_size ({self.train.batch_size})")
        return self

    @model_validator(mode="after")
    def _attacks_differ(self) -> Self:
        names = [attack.name for attack in self.fine_tuning_attacks]
        if len(set(names)) < len(names):
            raise ValueError(f"fine_tuning_attacks: expected a name of its own for each, got {', '.join(names)}")
        return self


def parse_recipe(values: Any, *, where: str) -> Recipe:
    """Check a recipe's values.

    Raises:
        RecipeError: an unknown key (the nearest known one is named) or an impossible value.
    """
    if not isinstance(values, dict):
        raise RecipeError(
            f"{where}: expected a mapping of recipe keys, got {type(values).__name__}; see `derta run --help`"
        )
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        keys, section = walk(first["loc"], start=Recipe)
        if first["type"] == "extra_forbidden":
            key = str(first["loc"][-1])
            path = ".".join([*keys, key])
            raise RecipeError(f"{where}: unknown key `{path}`; {did_you_mean(key, section.model_fields)}") from error
        path = ".".join(keys) or "recipe"
        raise RecipeError(f"{where}: `{path}`: {first['msg']}, got {first.get('input')!r:.80}") from error


def load_recipe(path: Path, *, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a YAML recipe; `overrides` are dotted keys (`train.max_steps`) that replace its values.

    Raises:
        RecipeError: the file is missing or not YAML, a key is unknown, or a value cannot be.
    """
    values = read_values(path)
    for key, value in (overrides or {}).items():
        _override(values, key, value, where=str(path))
    return parse_recipe(values, where=str(path))


def _override(values: Any, key: str, value: Any, *, where: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {}) if isinstance(values, dict) else None
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: cannot set `{key}`: expected a mapping above `{last}`, got another kind of value")
    values[last] = value
