"""Configuration of training rows and losses: the fields that derta adds to `TrainingArguments`, and their defaults.

This module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from derta.errors import RecipeError
from derta.records import REFUSAL_WORDS

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
PerTriple = Annotated[float, Field(ge=0, le=1000)]


def _from_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value or {}


FOLLOW_UPS = ("Go on.", "Please continue.", "And then?", "What comes next?", "Continue where you stopped.")
TERM_WEIGHTS = ("helpful_weight", "safe_weight", "rto_weight", "completion_weight", "counter_weight")

if TYPE_CHECKING:
    Words = tuple[str, ...]
    Settings = dict[str, Any]
    Named = Any
else:  # types that Hugging Face's HfArgumentParser can parse from a command line
    Words = Annotated[list[str], AfterValidator(tuple)]
    Settings = Annotated[dict[str, Any] | str | None, BeforeValidator(_from_json)]
    Named = Any | str | None


@dataclass(kw_only=True)
class RowConfig:
    """Configuration of training rows, batches and loss weights.

    The defaults are for full fine-tuning; for LoRA set `sorry_dropout` to 0.

    Attributes:
        method: A name of `derta.methods.METHODS`, or a custom `Method`.
        refusal_words: Words that start a refusal; their first tokens are the RTO labels.
        template: Chat template: `auto` (the tokenizer's), `paper`, `paper_eval`, or the path of a Jinja file.
        template_kwargs: Keyword arguments of the chat template.
        template_date: The date that a template writes instead of today's, as YYYY-MM-DD, so that rows are the same on
            every day. The default is the one of Llama 3.1's template.
        trust_remote_code: Run the Python code of a model that is loaded by name.
        assistant_turns: Answers of a helpful conversation that have labels: `all` (as with TRL's
            `assistant_only_loss`), or the `last` one.
        refuse_in: Where a model that thinks learns to refuse. `answer`: harmful prefixes and RTO labels lie in the
            answer, after an empty thought. `thought`: they lie in the thought, and the safe response ends the thought
            and is the answer. `both`: one of the two, drawn for each triple and epoch.
        max_length: Maximum length of a row in tokens; `data.rows` documents the truncation.
        global_batch_size: Rows of an optimizer step, over all processes and accumulated micro-batches.
        step_tokens: Tokens of an optimizer step, instead of `global_batch_size` rows: the rows of an epoch are split
            into steps of about this many tokens, with one row or more each.
        pack_tokens: Maximum tokens of a packed sequence; 0: no packing, one padded sequence per row.
        branches_per_triple: Number of safe rows drawn from a triple, each with another harmful prefix; methods without
            a prefix (vanilla, rto) have one. The mixture still counts a triple as two instances, so this multiplies the
            weight of the safe term, unless `safe_weight` compensates for it.
        tree_rows: Combine the rows of a triple (RTO, safe branches) into a tree with a shared trunk of query and
            harmful response: the same losses from fewer tokens. A tree counts as one row in the batch sizes.
        helpful_weight: Weight of the helpful term; the paper's weights are all 1.
        safe_weight: Weight of the safe term.
        rto_weight: Weight of the RTO term.
        completion_weight: Weight of the completion term.
        counter_weight: Weight of the counter term.
        normalization: Divisor of the loss. `token`: labelled tokens of the step (as in Hugging Face); `row`: labelled
            tokens of each row, then the number of rows; `micro_batch`: labelled tokens of each micro-batch (as in the
            released code).
        sorry_dropout: Probability of dropping an RTO label: 0.95 for full fine-tuning, 0 for LoRA (paper, §3).
        sorry_dropout_end: That probability at the last token of a harmful response; it is linear in the depth, from
            `sorry_dropout` at the first token. None: the same at all tokens.
        rto_targets: RTO loss at a position. `token`: -log p of one valid refusal token, drawn if there are several
            words. `set`: -log of the sum of p over all valid ones, so no mass is moved from one refusal word to
            another. A token is valid if it starts a refusal word there: after text with a leading space, after white
            space without. With one refusal word both are the same.
        rto_margin: RTO labels have no loss and no gradient where the probability of their targets is at least this;
            None: no margin.
        anchor_weight: Weight of the anchor: at the labels of helpful and counter rows, the KL divergence of the initial
            model from the tuned one (`train.entries`) is added to the loss. Its weight does not depend on those of the
            terms; 0: no anchor.
        anchor_top_k: Number of most probable tokens of the initial model that are stored at each label, as 8 bytes
            each; all other tokens are compared as one.
        prefix_share: Share of harmful-prefix rows with k ≥ 1; the others have k = 0. The released code has 2/3.
        max_prefix: Longest harmful prefix in tokens. None: the whole harmful response.
        completion_per_triple: Completion rows for each triple: a benign answer, broken off, and a refusal of which the
            first word is read and the rest is learned (`data.completions.completion_row`).
        counter_per_triple: Counter examples for each triple: benign requests that look like harmful ones, answered.
            They are taken from the counter examples of the data, and repeated if there are fewer.
        earlier_turn_share: Share of triples that are split over two turns in an epoch: the start of the harmful
            response is an earlier answer, the user asks to go on, and the model learns to break off now. The paper has
            none.
        follow_ups: The user's messages between the two parts; each triple has one of them.
        reference: Use the choices of the released code, for comparison only: k at a word boundary, drawn once; the bare
            refusal token at all positions, the closing token's position included; dropout over the padded row.
        attn_implementation: Attention implementation of a model that is loaded by name.
        compile_layers: Compile the repeated layers of the model, each once for all batch shapes.
        num_threads: Number of CPU threads of torch; None is torch's default.
        save_dtype: Dtype of the saved weights, to which they are cast once, after training: `auto` is that of the base
            model's files (of a loaded model: that of its weights). Checkpoints have the precision of training.
    """

    method: Named = "derta"
    refusal_words: Words = field(default_factory=lambda: REFUSAL_WORDS)
    template: str = "auto"
    template_kwargs: Settings = field(default_factory=dict)
    template_date: str = "2024-07-26"
    trust_remote_code: bool = False
    assistant_turns: Literal["all", "last"] = "all"
    refuse_in: Literal["answer", "thought", "both"] = "answer"
    max_length: Annotated[int, Field(ge=32)] = 1024
    global_batch_size: Count = 128
    step_tokens: Count | None = None
    pack_tokens: Annotated[int, Field(ge=0)] = 1024
    branches_per_triple: Count = 1
    tree_rows: bool = False
    helpful_weight: Weight = 1.0
    safe_weight: Weight = 1.0
    rto_weight: Weight = 1.0
    completion_weight: Weight = 1.0
    counter_weight: Weight = 1.0
    normalization: Literal["token", "row", "micro_batch"] = "token"
    sorry_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.95
    sorry_dropout_end: Share | None = None
    rto_targets: Literal["token", "set"] = "token"
    rto_margin: Annotated[float, Field(gt=0, le=1)] | None = None
    anchor_weight: Weight = 0.0
    anchor_top_k: Count = 32
    prefix_share: Share = 2 / 3
    max_prefix: Count | None = None
    completion_per_triple: PerTriple = 0.0
    counter_per_triple: PerTriple = 0.0
    earlier_turn_share: Share = 0.0
    follow_ups: Words = field(default_factory=lambda: FOLLOW_UPS)
    reference: bool = False
    attn_implementation: Literal["sdpa", "flash_attention_2", "flex_attention", "eager"] = "sdpa"
    compile_layers: bool = False
    num_threads: Count | None = None
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    def __post_init__(self) -> None:
        for name, value in validate_values(RowConfig, vars(self)).items():
            setattr(self, name, value)
        for fault in row_faults(self):
            raise fault

    @property
    def term_weights(self) -> tuple[float, ...]:
        """Weights of the loss terms, in the order of `data.rows.TERMS`."""
        return tuple(getattr(self, name) for name in TERM_WEIGHTS)


ROW_FIELDS = tuple(item.name for item in fields(RowConfig))


@cache
def field_adapters(config: type) -> dict[str, TypeAdapter[Any]]:
    """Return the validator of each field of a config dataclass (cached)."""
    hints = get_type_hints(config, include_extras=True)
    settings = ConfigDict(arbitrary_types_allowed=True)
    return {item.name: TypeAdapter(hints[item.name], config=settings) for item in fields(config) if item.init}


def validate_values(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Validate values of a config dataclass and return them converted to the types of its fields; others are ignored.

    >>> validate_values(RowConfig, {"max_length": "64", "refusal_words": ["Sorry", "No"], "other": 1})
    {'max_length': 64, 'refusal_words': ('Sorry', 'No')}

    Raises:
        RecipeError: an invalid value; `key` is its field.
    """
    adapters = field_adapters(config)
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name in adapters:
            parsed = _parse(adapters[name], name, value)
            if isinstance(parsed, RecipeError):
                raise parsed
            checked[name] = parsed
    return checked


def value_faults(adapters: Mapping[str, TypeAdapter[Any]], values: Mapping[str, Any]) -> Iterator[RecipeError]:
    """Yield an error for each value that its adapter refuses; `key` is its field."""
    for name, value in values.items():
        if name in adapters and isinstance(fault := _parse(adapters[name], name, value), RecipeError):
            yield fault


def _parse(adapter: TypeAdapter[Any], name: str, value: Any) -> Any:
    """Return a value converted to the type of its field, or the error."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        fault = RecipeError(f"{error.errors(include_url=False)[0]['msg']}, got {value!r:.80}", key=name)
        fault.__cause__ = error
        return fault


def row_faults(config: RowConfig) -> Iterator[RecipeError]:
    """Yield an error for each set of values that exclude each other; `key` has their names."""
    weights = (config.helpful_weight, config.safe_weight, config.rto_weight)
    if not any(weights):
        yield RecipeError("expected at least one above 0, got none", key="helpful_weight, safe_weight, rto_weight")
    if config.reference:
        yield from _reference_faults(config)
    if config.earlier_turn_share and not config.follow_ups:
        yield RecipeError("expected at least one message of the user, got none", key="follow_ups")
    if config.tree_rows and config.attn_implementation not in ("sdpa", "flex_attention"):
        yield RecipeError(
            f"expected attn_implementation sdpa or flex_attention, got {config.attn_implementation}",
            key="tree_rows",
        )


def _reference_faults(config: RowConfig) -> Iterator[RecipeError]:
    """Yield an error for each setting that the released code does not have."""
    if config.tree_rows or config.branches_per_triple > 1:
        yield RecipeError(
            "the released code has no tree_rows and one branches_per_triple; leave them out", key="reference"
        )
    if config.normalization == "row" or any(getattr(config, name) != 1 for name in TERM_WEIGHTS):
        yield RecipeError("the released code has its own normalization and no weights; leave them out", key="reference")
    others = ("step_tokens", "refuse_in", "earlier_turn_share", "sorry_dropout_end", "max_prefix", "rto_targets")
    for name in (*others, "rto_margin", "anchor_weight", "completion_per_triple", "counter_per_triple"):
        if getattr(config, name) != getattr(RowConfig, name):
            yield RecipeError(f"the released code has no {name}; leave it out", key="reference")
