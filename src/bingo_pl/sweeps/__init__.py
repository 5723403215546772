"""Searching hyper-parameters, on W&B or without it."""
