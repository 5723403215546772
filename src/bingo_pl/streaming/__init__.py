"""Groups of any size in constant memory, over any number of processes."""
