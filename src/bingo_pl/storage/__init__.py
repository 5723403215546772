"""Files that are written whole or not at all, checked when read, named safely, and locked."""
