"""Compose stages into runs: library verbs that the command line and `derta.run` call."""
