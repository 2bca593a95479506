"""Tokenises documents, and stores token ids in shards."""
