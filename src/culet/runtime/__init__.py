"""Engines: token ids to unit vectors."""
