"""Corpora: documents from text, their tokens, hash ids and statistics, in bounded memory."""
