"""Unit vectors in numpy: similarity, exact nearest neighbours, small codes."""
