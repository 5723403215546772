"""Looking at every file before anything is trained or registered: the work behind ``bingo check``."""
