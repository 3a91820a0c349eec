"""Fine-tuning attacks: tuned models are trained further, and evaluated as separate models."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from derta.chat import ChatFormat
from derta.config import FineTuningSection, Recipe, TrainSection
from derta.data.cleaning import clean_examples
from derta.data.encoding import encode_example
from derta.data.matching import RequestTurns, request_turns
from derta.data.preparation import PreparedData, format_counts
from derta.data.rows import Instance, instances
from derta.data.unsafe import UnsafePair, unsafe_instances, unsafe_pairs
from derta.errors import DataError
from derta.files import write_text
from derta.methods import METHODS, method_config, tune
from derta.pipeline.data import TemplateFaults, evaluated_requests, read_source_examples, read_source_triples
from derta.pipeline.models import load_format, shared_format
from derta.protocols import Display
from derta.records import Example, short_hash
from derta.results import METHODS_WITH_THE_FIRST
from derta.train.tracking import project_name

if TYPE_CHECKING:
    from derta.train.config import DertaConfig

COST_FILE = "fine_tuning.json"
INHERITED_SETTINGS = (
    "max_length", "pack_tokens", "train_sampling_strategy", "bf16", "fp16", "tf32", "attn_implementation",
    "compile_layers", "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing",
    "gradient_checkpointing_kwargs", "logging_steps", "logging_strategy", "save_strategy", "save_steps", "report_to",
    "num_threads", "dataloader_num_workers", "dataloader_pin_memory", "torch_empty_cache_steps", "save_dtype",
)  # fmt: skip
"""Fields of `train` that an attack inherits, with `lora`.

The batch size per device is inherited too, but reduced to a divisor of the attack's batch size.
"""


class AttackData(NamedTuple):
    """Dataset of an attack: benign examples or harmful pairs. `note` reports what was dropped."""

    examples: list[Example]
    pairs: list[UnsafePair]
    note: str

    @property
    def identity(self) -> str:
        """Hash of the data."""
        texts = [text for pair in self.pairs for text in pair.texts]
        return short_hash(*(example.id for example in self.examples), *texts)


class FineTuningAttack(NamedTuple):
    """A recipe's attack with one number of steps (None: its number of epochs applies)."""

    section: FineTuningSection
    steps: int | None

    @property
    def name(self) -> str:
        """Name of the attack in the report: that of its section, with the number of steps."""
        return self.section.name + (f" {self.steps}" if self.steps else "")

    def label(self, method: str) -> str:
        """Return the label of a method's attacked model in the report."""
        return f"{method} + {self.name}"

    def folder_prefix(self, method: str) -> str:
        """Return the prefix of the attacked model's folder name."""
        return f"{method}+{self.section.name}" + (f"+{self.steps}" if self.steps else "")


def fine_tuning_attacks(recipe: Recipe) -> list[FineTuningAttack]:
    """Return the recipe's fine-tuning attacks, one for each number of steps."""
    return [
        FineTuningAttack(section, steps) for section in recipe.fine_tuning_attacks for steps in section.steps or (None,)
    ]


def read_all_attack_data(recipe: Recipe, *, prepared: PreparedData) -> dict[str, AttackData]:
    """Load the datasets of a recipe's attacks, by name, without evaluated and held-out rows.

    Raises:
        DataError: an attack's dataset is empty.
    """
    held_out_requests = [request_turns(request.conversation) for request in prepared.held_out_requests]
    evaluated = [*evaluated_requests(recipe), *held_out_requests]
    held_out = {example.id for example in prepared.held_out_examples}
    return {
        section.name: read_attack_data(recipe, section, evaluated=evaluated, held_out=held_out)
        for section in recipe.fine_tuning_attacks
    }


def read_attack_data(
    recipe: Recipe, section: FineTuningSection, *, evaluated: Sequence[RequestTurns], held_out: Container[str] = ()
) -> AttackData:
    """Load an attack's dataset, without the requests in `evaluated` and the examples whose ids are in `held_out`.

    Raises:
        DataError: the dataset is empty.
    """
    faults = TemplateFaults(recipe)
    examples, dropped_examples, _ = read_source_examples(section.helpful, faults=faults)
    helpful = clean_examples(examples, evaluation_requests=evaluated)
    remaining = [example for example in helpful.examples if example.id not in held_out]
    triples, dropped_triples, _ = read_source_triples(section.harmful, recipe, faults=faults)
    clean = unsafe_pairs(triples, evaluation_requests=evaluated)
    dropped = dropped_examples + helpful.dropped + dropped_triples + clean.dropped
    dropped += Counter(held_out=len(helpful.examples) - len(remaining))
    kind, num_rows = ("harmful pairs", len(clean.pairs)) if section.harmful else ("benign examples", len(remaining))
    note = f"fine-tuning attack {section.name}: {num_rows} {kind}; dropped: {format_counts(dropped)}."
    if not num_rows:
        raise DataError(f"{note[:-1]}; expected at least one valid row; use other data")
    return AttackData(remaining, clean.pairs, note)


def attack_train(train: TrainSection, section: FineTuningSection, *, steps: int | None) -> TrainSection:
    """Return the attack's training settings: its pace, plain rows and losses, and the recipe's `INHERITED_SETTINGS`.

    >>> section = FineTuningSection.model_validate({"name": "harm", "harmful": [{"path": "pairs.jsonl"}]})
    >>> settings = attack_train(TrainSection(), section, steps=None).settings
    >>> settings["global_batch_size"], settings["per_device_train_batch_size"], settings["learning_rate"]
    (10, 5, 5e-05)
    """
    from derta.train.config import DertaConfig

    pace, harmful = section.pace, bool(section.harmful)
    batch_size = pace.global_batch_size or (10 if harmful else 128)
    per_device = train.settings.get("per_device_train_batch_size", DertaConfig.per_device_train_batch_size)
    limit = min(batch_size, per_device)
    overrides = {
        "num_train_epochs": pace.num_train_epochs or (5.0 if harmful else 1.0),
        "max_steps": steps or -1,
        "global_batch_size": batch_size,
        "per_device_train_batch_size": max(size for size in range(1, limit + 1) if batch_size % size == 0),
        "learning_rate": pace.learning_rate or (5e-5 if harmful else 2e-5),
        "lr_scheduler_type": pace.lr_scheduler_type,
        "warmup_steps": pace.warmup_steps,
        "weight_decay": pace.weight_decay,
    }
    inherited = {name: train.settings[name] for name in INHERITED_SETTINGS if name in train.settings}
    return TrainSection.model_validate(inherited | overrides | {"lora": train.lora})


def check_rows(recipe: Recipe, data: Mapping[str, AttackData]) -> None:
    """Validate before any training that the attacks' datasets can be encoded.

    Raises:
        ModelError: the chat template refuses a conversation.
        DataError: an answer has no token.
    """
    chat, _ = shared_format(recipe)
    for one in data.values():
        attack_rows(one, chat)


def attack_rows(data: AttackData, chat: ChatFormat) -> list[Instance]:
    """Return the encoded dataset of an attack."""
    if data.pairs:
        return unsafe_instances(chat, data.pairs)
    return instances(triples=[], examples=[row for example in data.examples for row in encode_example(chat, example)])


def fine_tune(
    recipe: Recipe,
    attack: FineTuningAttack,
    *,
    data: AttackData,
    init_from: Path,
    seed: int,
    out: Path,
    cost_path: Path,
    description: str,
    display: Display = Display(),
) -> None:
    """Continue training the model in `init_from`, save it to `out`, and write the cost of training to `cost_path`.

    A stopped training is resumed, and existing output is not computed again. An adapter on the recipe's model stays an
    adapter. `description` is shown next to the progress bar.
    """
    if out.exists() and cost_path.exists():
        return
    from derta.loading import is_adapter
    from derta.pipeline.training import training_progress

    adapter = init_from if is_adapter(init_from) else None
    chat, _ = load_format(recipe, adapter=adapter)
    rows = attack_rows(data, chat)
    train = attack_train(recipe.train, attack.section, steps=attack.steps)
    method = METHODS["vanilla"]
    names = {"project": project_name(recipe.title), "run_name": description}
    config = method_config(method, train, model=recipe.model, seed=seed, output_dir=out, settings=names)
    with training_progress(display, f"{description}: fine-tuning") as callback:
        tune(
            method,
            model=str(init_from) if adapter is None else recipe.model.path,
            config=config,
            data=rows,
            tokenizer=chat.tokenizer,
            out=out,
            lora=train.lora,
            init_from=adapter,
            callbacks=[callback],
        )
    write_training_cost(out, rows=rows, config=config, path=cost_path)


def write_training_cost(model: Path, *, rows: Sequence[Instance], config: DertaConfig, path: Path) -> None:
    """Compute the cost of training a model on these rows, and write it to a file."""
    from derta.train.estimate import training_cost

    cost = training_cost(model, instances=rows, config=config, seed=config.rows_seed)
    write_text(path, json.dumps(cost._asdict()) + "\n")


def format_training_cost(path: Path) -> str:
    """Return the cost of a fine-tuning as text, for reports."""
    cost = json.loads(path.read_text(encoding="utf-8"))
    return (
        f"{cost['steps']} steps of fine-tuning read {cost['rows']} rows ({cost['tokens']} tokens); it took "
        f"{cost['seconds']:.0f} s since its last start"
    )


def fine_tuning_note(home: Path, *, model: str) -> list[str]:
    """Return a note on the cost of a model's fine-tuning; an empty list if there was none."""
    path = home / COST_FILE
    return [f"{model}: {format_training_cost(path)}."] if path.exists() else []


def attack_comparisons(
    methods: Sequence[str], labels: Sequence[Callable[[str], str]], *, baseline: str, untrained: Container[str] = ()
) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the pairs of models to compare, by question.

    The questions: each method against the baseline, before and after each attack, and methods after the same attack.

    >>> labels = [lambda method: method + " + harm"]
    >>> list(attack_comparisons(["vanilla", "derta"], labels, baseline="vanilla").values())[1:]
    [(('vanilla', 'vanilla + harm'), ('derta', 'derta + harm')), (('vanilla + harm', 'derta + harm'),)]
    """
    others = [method for method in methods if method != baseline]
    attacked = [method for method in methods if method not in untrained]
    rest = [method for method in others if method in attacked]
    return {
        METHODS_WITH_THE_FIRST: tuple((baseline, method) for method in others),
        "before and after an attack": tuple((method, label(method)) for label in labels for method in attacked),
        "methods after the same attack": tuple(
            (label(baseline), label(method)) for label in labels for method in rest if baseline in attacked
        ),
    }
