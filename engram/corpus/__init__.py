"""Corpora: reading, tokenising and hashing text, and its statistics, in bounded memory."""
