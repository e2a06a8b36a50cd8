"""Training: one loop, one contrastive step, exact resume. Knows nothing of text or evaluation."""
