"""Command-line interface: parses options, calls the pipeline and prints the results."""
