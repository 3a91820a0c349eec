"""Replay of the paper's published outputs with our judges, compared with the paper's figures."""
