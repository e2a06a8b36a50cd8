"""Training data: records from files, batches from sources, texts to tokens. No torch here."""
