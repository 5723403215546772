"""Atlases of populations: an unbiased template, the people behind it, and newcomers to it."""
