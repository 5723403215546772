"""One page by which a person judges a registration."""
