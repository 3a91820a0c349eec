"""Replies and verdicts in the formats of others: HarmBench, JailbreakBench, Inspect."""
