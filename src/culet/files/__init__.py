"""Bytes on disk: knows no model and not what a text means."""
