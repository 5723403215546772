"""Registering one's own images and applying what was found."""
