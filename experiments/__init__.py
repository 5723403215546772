"""Experiment files that come with the package; see `bingo_pl.config`."""
