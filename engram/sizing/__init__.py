"""Sizes of memories: parameter counts, budgets, placement and reads, in plain integers."""
