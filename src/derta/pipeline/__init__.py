"""Composition of the stages into runs, for the command line and `derta.run`."""
