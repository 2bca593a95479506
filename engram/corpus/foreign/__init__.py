"""Reads the tokens of corpora that other tools wrote."""
