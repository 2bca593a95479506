"""The `engram` command: one file a command; each parses, calls the library, shows one result."""
