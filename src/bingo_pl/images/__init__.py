"""Images, transforms and landmarks in files and in memory, and the geometry between them."""
