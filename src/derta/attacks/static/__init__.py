"""Attacks that craft their prompts from the requests alone, one file each."""
