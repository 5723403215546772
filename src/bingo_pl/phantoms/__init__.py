"""Synthetic anatomies and cohorts, for people who have no data yet and for models that need none."""
