"""Making of triples and counter rows from requests, by models: `making` composes the stages."""
