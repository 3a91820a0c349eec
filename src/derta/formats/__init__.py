"""Replies and labels from anywhere; replies and verdicts in the formats of HarmBench, JailbreakBench and Inspect."""

from derta.formats.cases import JudgedCase
from derta.formats.exporting import FORMATS, export

__all__ = ["FORMATS", "JudgedCase", "export"]
