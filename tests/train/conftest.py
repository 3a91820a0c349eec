from tiny_training import *  # noqa: F403 - fixtures that tests/methods has, too
from trainer_cases import base, trainer_of  # noqa: F401 - fixtures of several modules
