"""Dataset loading, validation, cleaning and mixing, and tokenized training rows; no module imports torch."""
