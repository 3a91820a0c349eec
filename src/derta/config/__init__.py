"""All settings of a run: the sections of a recipe, their defaults, and the YAML file that holds them."""

from derta.config.data import DEFAULT_OPENER, DataSection, PrepareConfig, SafePolicy
from derta.config.evaluation import (
    EngineConfig,
    EvaluationSection,
    FineTuningPace,
    FineTuningSection,
    GenerateSection,
    JudgeConfig,
    SearchSection,
    SectionKey,
)
from derta.config.recipe import (
    DpoSection,
    LoraSection,
    ModelSection,
    Recipe,
    TermWeights,
    TrainSection,
    load_recipe,
    parse_recipe,
)
from derta.config.recipe_file import merge, read_values
from derta.config.sections import Section, SourceSection

__all__ = [
    "DEFAULT_OPENER",
    "DataSection",
    "DpoSection",
    "EngineConfig",
    "EvaluationSection",
    "FineTuningPace",
    "FineTuningSection",
    "GenerateSection",
    "JudgeConfig",
    "LoraSection",
    "ModelSection",
    "PrepareConfig",
    "Recipe",
    "SafePolicy",
    "SearchSection",
    "Section",
    "SectionKey",
    "SourceSection",
    "TermWeights",
    "TrainSection",
    "load_recipe",
    "merge",
    "parse_recipe",
    "read_values",
]
