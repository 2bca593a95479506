"""Checks attached checkpoints: from headers, and with their weights."""
