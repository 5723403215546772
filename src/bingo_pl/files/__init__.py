"""Images, transforms and landmarks in files, and the geometry between them."""
