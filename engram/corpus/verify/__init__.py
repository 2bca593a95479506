"""Checks folders of tokens and of hash ids."""
