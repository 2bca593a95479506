"""Tokenises and counts a text on Ray."""
