"""The `Method` class: a training method as one object. Custom methods are valid in place of built-in names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from derta.run_folder import identify

if TYPE_CHECKING:
    from torch import nn
    from transformers import Trainer

    from derta.chat import ChatFormat, RefusalTokens
    from derta.data.mixture import TrainingSet
    from derta.train.collator import Batch
    from derta.train.config import DertaConfig
    from derta.train.estimate import Plan
    from derta.train.loss import LabelLoss

Loss = Callable[["nn.Module", "Batch"], "LabelLoss"]
"""A function of the model and a micro-batch that returns the weighted sum of its label losses.

`batch["weights"]` are already normalised for the optimizer step. The model is the wrapped one (DDP, FSDP, adapters):
call it, so that gradients are synchronised. With the whole batch as arguments it returns `derta.train.loss.LabelLoss`;
with only `input_ids` and `position_ids`, and `use_cache=False`, it computes the stock model's output for packed rows.
"""


class EncodeDataset(Protocol):
    """Function that encodes a training set as a trainer's dataset; `DertaTrainer` needs `derta.data.rows` instances."""

    def __call__(
        self, data: TrainingSet, *, chat: ChatFormat, refusals: RefusalTokens, config: DertaConfig
    ) -> Sequence[Any]:
        """Return the training set, encoded with the model's own chat template."""
        ...


@dataclass(frozen=True, kw_only=True)
class Method:
    """Configuration of a training method.

    Attributes:
        name: The name in recipes, folders and reports.
        description: One sentence for `derta list methods`.
        dataset: Encodes a training set as the trainer's dataset.
        loss: The loss function; None: cross-entropy at the labels of the rows (`derta.train.loss.label_loss`).
        triples_per_unit: Triples for each triple of DeRTa, so that both train on the same number of instances.
        init_from: The method whose model initialises this one; None: the recipe's model.
        package: The required package, and the extra of derta that installs it.
        config: Returns the config class, on first use; None: `DertaConfig`. Fields that it adds are set in a recipe's
            `method_settings`, not in `train`.
        own_settings: Names of the fields that `config` adds, which are known before it is imported.
        trainer: Builds the trainer; None: `derta.methods.tuning.row_trainer`, which returns a `DertaTrainer`.
        plan: Counts the trainer's work, as `derta.train.estimate.plan` does.
        unit: The trainer's input, for messages.
        defaults: Values of config fields for this method. They apply where a setting has its general default, and
            `method_settings` of a recipe override them.
        own_refusals: True: `preferences` of the training set are the initial model's own refusals of counter examples,
            which a pipeline generates before training (`pipeline.own_refusals`).
        trains: False: the recipe's model is not trained, for comparison.
        version: Identifies this version of the method when a run is resumed; None: the source of its functions does.

    >>> from dataclasses import replace
    >>> from derta.methods import METHODS
    >>> def mine(model, batch):  # a custom loss
    ...     return METHODS["derta"].loss(model, batch)
    >>> replace(METHODS["derta"], name="mine", loss=mine).triples_per_unit
    1
    """

    name: str
    dataset: EncodeDataset
    description: str = ""
    loss: Loss | None = None
    triples_per_unit: int = 1
    init_from: str | None = None
    package: tuple[str, str] | None = None
    config: Callable[[], type[DertaConfig]] | None = None
    own_settings: tuple[str, ...] = ()
    trainer: Callable[..., Trainer] | None = None
    plan: Callable[[Any], Plan] | None = None
    unit: str = "rows"
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    own_refusals: bool = False
    trains: bool = True
    version: str | None = None

    @property
    def identity(self) -> str:
        """Identity of the method, which a resumed run compares with that of the stopped one.

        Raises:
            RunError: there is no `version`, and one of the functions has no source.
        """
        defaults = [f"{name}={value}" for name, value in sorted(self.defaults.items())]
        if self.version is not None:
            return " ".join([self.name, self.version, *defaults])
        functions = (self.dataset, self.loss, self.config, self.trainer)
        settings = [
            f"{name}={getattr(self, name)}" for name in ("init_from", "triples_per_unit") if getattr(self, name)
        ]
        return " ".join([*settings, *defaults, *(_identify(one) for one in functions if one is not None)])


def _identify(function: Callable[..., Any]) -> str:
    if isinstance(function, partial):
        return f"{identify(function.func)}{sorted(function.keywords.items())}"
    return identify(function)
