"""Where packages are, and downloads that are what the index says they are."""
