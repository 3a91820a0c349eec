"""Warnings about a model's format, each logged once: the commands of a run load the same format several times."""

from __future__ import annotations

import logging
from functools import cache

_LOG = logging.getLogger(__name__)


@cache
def warn_once(message: str) -> None:
    """Log a warning, the first time in this process."""
    _LOG.warning("%s", message)
