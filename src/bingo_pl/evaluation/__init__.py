"""How well groups are registered, and how far that can be trusted."""
