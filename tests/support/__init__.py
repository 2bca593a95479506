"""Helpers of the tests: tiny models, folders, processes, comparisons. No test lies here."""
