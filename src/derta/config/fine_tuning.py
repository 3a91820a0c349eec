"""Configuration of fine-tuning attacks."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from derta.config.evaluation import LONGEST_NAME
from derta.config.sections import Section, Sources, SourceSection


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
