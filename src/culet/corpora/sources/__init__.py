"""One file per family of corpora, which turns a package into rows."""
