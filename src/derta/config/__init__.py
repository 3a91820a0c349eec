"""Configuration of a run: the sections of a recipe, their default values, and the loading of YAML recipe files."""

from derta.config.combinations import check_together, faults_together
from derta.config.data import (
    DEFAULT_OPENER,
    AnswerSource,
    DataSection,
    PrepareConfig,
    RewriterSection,
    SafePolicy,
)
from derta.config.decoding import CalibrationSection, method_threshold, sampling_settings
from derta.config.engines import EngineConfig, JudgeConfig, SearchSection
from derta.config.environment import expand_section, expand_variables, is_allowed, unexpand, unset_variables
from derta.config.evaluation import EvaluationSection, GenerateSection, SectionKey
from derta.config.fine_tuning import FineTuningPace, FineTuningSection
from derta.config.models import ModelSection, OtherModel
from derta.config.recipe import THRESHOLD, Recipe, load_recipe, parse_recipe, recommended_method
from derta.config.recipe_file import merge, parse_yaml, read_values
from derta.config.rows import ROW_FIELDS, RowConfig, validate_values, value_faults
from derta.config.sections import Section, SourceSection
from derta.config.train import (
    ELSEWHERE,
    REFUSED,
    RENAMED,
    WORKING,
    LoraSection,
    TrainSection,
    allowed_fields,
    check_field,
)
from derta.config.training import TrainingField, combination_faults, setting_faults, training_fields
from derta.config.triples import (
    CounterpartSection,
    HarmfulSection,
    PolicyRequests,
    SafeSection,
    TriplesConfig,
    expand_triples_config,
    load_triples_config,
    parse_triples_config,
)
from derta.sampling import GREEDY, Sampling

__all__ = [
    "DEFAULT_OPENER",
    "ELSEWHERE",
    "GREEDY",
    "REFUSED",
    "RENAMED",
    "ROW_FIELDS",
    "THRESHOLD",
    "WORKING",
    "AnswerSource",
    "CalibrationSection",
    "CounterpartSection",
    "DataSection",
    "EngineConfig",
    "EvaluationSection",
    "FineTuningPace",
    "FineTuningSection",
    "GenerateSection",
    "HarmfulSection",
    "JudgeConfig",
    "LoraSection",
    "ModelSection",
    "OtherModel",
    "PolicyRequests",
    "PrepareConfig",
    "Recipe",
    "RewriterSection",
    "RowConfig",
    "SafePolicy",
    "SafeSection",
    "Sampling",
    "SearchSection",
    "Section",
    "SectionKey",
    "SourceSection",
    "TrainSection",
    "TrainingField",
    "TriplesConfig",
    "allowed_fields",
    "check_field",
    "check_together",
    "combination_faults",
    "expand_section",
    "expand_triples_config",
    "expand_variables",
    "faults_together",
    "is_allowed",
    "load_recipe",
    "load_triples_config",
    "merge",
    "method_threshold",
    "parse_recipe",
    "parse_triples_config",
    "parse_yaml",
    "read_values",
    "recommended_method",
    "sampling_settings",
    "setting_faults",
    "training_fields",
    "unexpand",
    "unset_variables",
    "validate_values",
    "value_faults",
]
