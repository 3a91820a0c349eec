"""What a method is: one object, which serves wherever the name of one of ours does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
"""The sum over a micro-batch's labels of `batch["weights"]` times what each costs.

The weights are already divided by what the step is divided by. The model is the wrapped one (DDP, FSDP, adapters):
call it, so that gradients are shared. With all of a batch it gives `derta.train.loss.LabelLoss`; with `input_ids` and
`position_ids` alone, and `use_cache=False`, it is the stock model, of packed rows.
"""


class EncodeDataset(Protocol):
    """Turns a training set into what a method's trainer reads; for `DertaTrainer`, instances of `derta.data.rows`."""

    def __call__(
        self, data: TrainingSet, *, chat: ChatFormat, refusals: RefusalTokens, config: DertaConfig
    ) -> Sequence[Any]:
        """Encode the set with the model's own template."""
        ...


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to tune a model.

    Attributes:
        name: What it is called in recipes, folders and reports.
        dataset: What it makes of a training set.
        loss: None: cross-entropy at the labels of the rows (`derta.train.loss.label_loss`).
        triples_per_unit: Triples that it takes for each one that DeRTa takes: its instances should be as many.
        init_from: The method whose model it starts from; None: the recipe's.
        package: What must be installed for it, and derta's extra that brings it.
        config: Its config, made when it is needed; None: `DertaConfig`. What it declares itself is not taken from a
            recipe's `train` but from `method_settings`.
        trainer: Builds its trainer in place of `DertaTrainer`, as `derta.methods.tuning.row_trainer` does.
        plan: Counts out that trainer's work, as `derta.train.estimate.plan` does.
        unit: What its trainer reads, for messages.
        trains: False: the recipe's model as it is, to compare with; nothing is trained.
        version: Tells this method from an earlier one of its name when a run is resumed; None: the source of its
            functions does.

    >>> from dataclasses import replace
    >>> from derta.methods import METHODS
    >>> def mine(model, batch):  # a loss of your own
    ...     return METHODS["derta"].loss(model, batch)
    >>> replace(METHODS["derta"], name="mine", loss=mine).triples_per_unit
    1
    """

    name: str
    dataset: EncodeDataset
    loss: Loss | None = None
    triples_per_unit: int = 1
    init_from: str | None = None
    package: tuple[str, str] | None = None
    config: Callable[[], type[DertaConfig]] | None = None
    trainer: Callable[..., Trainer] | None = None
    plan: Callable[[Any], Plan] | None = None
    unit: str = "rows"
    trains: bool = True
    version: str | None = None

    @property
    def identity(self) -> str:
        """What tells this method from others of its name.

        Raises:
            RunError: it has no `version`, and one of its functions has no source.
        """
        if self.version is not None:
            return f"{self.name} {self.version}"
        functions = (self.dataset, self.loss, self.config, self.trainer)
        settings = [
            f"{name}={getattr(self, name)}" for name in ("init_from", "triples_per_unit") if getattr(self, name)
        ]
        return " ".join([*settings, *(_identify(one) for one in functions if one is not None)])


def _identify(function: Callable[..., Any]) -> str:
    if isinstance(function, partial):
        return f"{identify(function.func)}{sorted(function.keywords.items())}"
    return identify(function)
