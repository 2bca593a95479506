"""Memories in GGUF files, as a dozen engines store them: opened and counted from headers."""
