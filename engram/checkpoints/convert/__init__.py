"""Converts memories to other dtypes and names."""
