"""All settings of a run: the sections of a recipe, their defaults, and the YAML file that holds them."""

from derta.config.evaluation import (
    EngineConfig,
    EvaluationSection,
    FineTuningPace,
    FineTuningSection,
    GenerateSection,
    SearchSection,
    SectionKey,
)
from derta.config.recipe import (
    DataSection,
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
    "DataSection",
    "DpoSection",
    "EngineConfig",
    "EvaluationSection",
    "FineTuningPace",
    "FineTuningSection",
    "GenerateSection",
    "LoraSection",
    "ModelSection",
    "Recipe",
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
