"""The settings of training that are derta's own, with the paper's values as defaults: one home, and free of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from derta.errors import RecipeError
from derta.records import REFUSAL_WORDS

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def _from_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value or {}


if TYPE_CHECKING:
    Words = tuple[str, ...]
    Settings = dict[str, Any]
    Named = Any
else:  # as Hugging Face's HfArgumentParser needs types, to read them from a command line
    Words = Annotated[list[str], AfterValidator(tuple)]
    Settings = Annotated[dict[str, Any] | str | None, BeforeValidator(_from_json)]
    Named = Any | str | None


@dataclass(kw_only=True)
class RowConfig:
    """How training rows are made, batched and weighed. Full fine-tuning: the defaults; LoRA: `sorry_dropout` 0.

    Attributes:
        method: A name of `derta.methods.METHODS`, or a `Method` of your own.
        refusal_words: What a refusal opens with; each must be one token.
        template: `auto` takes the tokenizer's chat template, `paper` the paper's; or the text of one.
        trust_remote_code: Run code that comes with a model which is loaded by name.
        max_length: Longest row in tokens; `data.rows` tells what gives way.
        global_batch_size: Rows of an optimizer step, over all processes and accumulated micro-batches.
        step_tokens: Tokens of an optimizer step, in place of `global_batch_size` rows: an epoch's rows are cut into
            steps of nearly so many, each of one row at least.
        pack_tokens: Rows are packed into sequences of up to this many tokens; 0: one row a sequence, padded.
        branches_per_triple: Safe rows drawn from a triple, each after a harmful prefix of its own; without a prefix
            (vanilla, rto) there is one. The mixture counts a triple as two instances all the same, so the safe term
            weighs that many times as much, unless `safe_weight` makes up for it.
        tree_rows: Lay a triple's rows (RTO, safe branches) over one shared trunk of query and harmful response: the
            same losses from fewer tokens. A tree counts as one row in the batch sizes.
        helpful_weight: Weight of the helpful term; the paper's weights are all 1.
        safe_weight: Weight of the safe responses' term.
        rto_weight: Weight of the RTO term.
        normalization: What a step's loss is divided by: its labelled tokens (as Hugging Face does), each row's own
            labelled tokens and then the rows, or each micro-batch's labelled tokens (as the released code does).
        sorry_dropout: Probability that an RTO label is left out: 0.95 for full fine-tuning, 0 for LoRA (paper, §3).
        prefix_share: Share of harmful-prefix rows with k ≥ 1; the rest have k = 0. The released builder has 2/3.
        reference: Make the released code's choices instead (k at a word, drawn once; the bare refusal token
            everywhere, the closing token's place too; dropout over the padded row). For comparison only.
        attn_implementation: The attention that a model which is loaded by name is trained with.
        compile_layers: Compile the model's repeated layers, each once for all shapes of batches.
        num_threads: Threads that torch computes with on a CPU; None leaves torch's choice.
    """

    method: Named = "derta"
    refusal_words: Words = field(default_factory=lambda: REFUSAL_WORDS)
    template: str = "auto"
    template_kwargs: Settings = field(default_factory=dict)
    trust_remote_code: bool = False
    max_length: Annotated[int, Field(ge=32)] = 1024
    global_batch_size: Count = 128
    step_tokens: Count | None = None
    pack_tokens: Annotated[int, Field(ge=0)] = 1024
    branches_per_triple: Count = 1
    tree_rows: bool = False
    helpful_weight: Weight = 1.0
    safe_weight: Weight = 1.0
    rto_weight: Weight = 1.0
    normalization: Literal["token", "row", "micro_batch"] = "token"
    sorry_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.95
    prefix_share: Share = 2 / 3
    reference: bool = False
    attn_implementation: Literal["sdpa", "flash_attention_2", "flex_attention", "eager"] = "sdpa"
    compile_layers: bool = False
    num_threads: Count | None = None

    def __post_init__(self) -> None:
        for name, value in validate_values(RowConfig, vars(self)).items():
            setattr(self, name, value)
        check_rows(self)

    @property
    def term_weights(self) -> tuple[float, float, float]:
        """The weights in the order of `data.rows.TERMS`."""
        return self.helpful_weight, self.safe_weight, self.rto_weight


ROW_FIELDS = tuple(one.name for one in fields(RowConfig))


@cache
def _adapters(config: type) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(config, include_extras=True)
    settings = ConfigDict(arbitrary_types_allowed=True)
    return {one.name: TypeAdapter(hints[one.name], config=settings) for one in fields(config) if one.init}


def validate_values(config: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the given values that are fields of a dataclass, each as its type wants it.

    >>> validate_values(RowConfig, {"max_length": "64", "refusal_words": ["Sorry", "No"], "other": 1})
    {'max_length': 64, 'refusal_words': ('Sorry', 'No')}

    Raises:
        RecipeError: a value that cannot be; it is named.
    """
    adapters = _adapters(config)
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name not in adapters:
            continue
        try:
            checked[name] = adapters[name].validate_python(value)
        except ValidationError as error:
            told = error.errors(include_url=False)[0]["msg"]
            raise RecipeError(f"{told}, got {value!r:.80}", key=name) from error
    return checked


def check_rows(config: RowConfig) -> None:
    """Refuse settings that exclude each other.

    Raises:
        RecipeError: it names them.
    """
    weights = (config.helpful_weight, config.safe_weight, config.rto_weight)
    if not any(weights):
        raise RecipeError("expected at least one above 0, got none", key="helpful_weight, safe_weight, rto_weight")
    if config.reference and (config.tree_rows or config.branches_per_triple > 1):
        raise RecipeError(
            "the released code has no tree_rows and one branches_per_triple; leave them out", key="reference"
        )
    if config.reference and (config.normalization == "row" or weights != (1, 1, 1)):
        raise RecipeError("the released code has its own normalization and no weights; leave them out", key="reference")
    if config.reference and config.step_tokens:
        raise RecipeError("the released code has no step_tokens; leave it out", key="reference")
    if config.tree_rows and config.attn_implementation not in ("sdpa", "flex_attention"):
        raise RecipeError(
            f"expected attn_implementation sdpa or flex_attention, got {config.attn_implementation}",
            key="tree_rows",
        )
