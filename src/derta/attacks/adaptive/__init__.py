"""Attacks that query the target while they search for a prompt, one file each."""
