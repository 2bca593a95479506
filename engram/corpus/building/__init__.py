"""Builds a corpus: text to token shards, in units that are done once."""
