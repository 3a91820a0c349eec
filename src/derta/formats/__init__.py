"""Input formats of replies and labels, and export to the formats of HarmBench, JailbreakBench and Inspect."""

from derta.formats.cases import JudgedCase
from derta.formats.exporting import FORMATS, export

__all__ = ["FORMATS", "JudgedCase", "export"]
