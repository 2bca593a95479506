"""Attaches a memory to a base, and gives the base back."""
