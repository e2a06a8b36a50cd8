"""Stages: each a frozen config and a run(config); they meet only on disk."""
