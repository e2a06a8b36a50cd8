"""A recipe from start to end: stages that read and write folders, each skipped once finished.

[run]       folder, device, threads
[<stage>]   a stage; its `kind` is the section's name unless it says another
[evaluate]  scores after each stage, at several widths
"""

from culet.pipeline.graph import Recipe, read_recipe
from culet.pipeline.run import run_recipe

__all__ = ["Recipe", "read_recipe", "run_recipe"]
