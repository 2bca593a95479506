"""Verifies folders of tokens and of hash ids."""
