"""Weight grids and vector codes: what numbers become when they are stored small."""
