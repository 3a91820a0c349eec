from tiny_training import *  # noqa: F403 - fixtures that tests/train has, too
