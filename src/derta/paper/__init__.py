"""Replay: the paper's own published outputs judged by our judges, beside what the paper says of them."""
