"""Training: packed batches, the loss at labelled positions, and the Hugging Face `Trainer` that uses them."""
