"""One file a family of sources: what a package of that family holds, as rows."""
