"""Configuration of engines and of what uses one: judges and search attacks."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from derta.config.sections import Section

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
