"""Files for authors of engines: the constants of a memory, and test vectors to check against."""
