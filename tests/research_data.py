"""The public research data, where `DERTA_DATA` names its folder."""

import os
from pathlib import Path

import pytest


def research_path(*parts: str) -> Path:
    """Return the path of a file of the public research data; skip the test without the data."""
    root = os.environ.get("DERTA_DATA")
    if not root:
        pytest.skip("set DERTA_DATA to the folder of public research data")
    return Path(root).joinpath(*parts)
