"""Streams documents from text of any kind."""
