"""Where packages are found, and downloads that match their checksums."""
