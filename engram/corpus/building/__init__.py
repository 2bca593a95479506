"""Builds a corpus: text to token shards, in units of work that are done once."""
