"""Many texts to a file of vectors, in bounded memory, resumable."""
