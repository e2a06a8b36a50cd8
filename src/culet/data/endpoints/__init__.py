"""Language models and embedders behind HTTP endpoints, asked once for each text."""
