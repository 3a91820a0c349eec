from tiny_training import *  # noqa: F403 - fixtures that tests/methods has, too
