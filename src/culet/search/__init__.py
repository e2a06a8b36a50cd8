"""Search over a folder of documents: a question is compared with every chunk."""
