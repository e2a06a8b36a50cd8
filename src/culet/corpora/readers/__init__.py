"""Archives, licences and document formats, read as data: nothing in a package is run."""
