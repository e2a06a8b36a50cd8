"""Hard negatives: which documents are near a query and wrong."""
