"""Text written by a checkpoint that generates."""
