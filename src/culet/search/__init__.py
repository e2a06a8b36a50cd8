"""Search over a folder of documents, compared with every chunk."""
