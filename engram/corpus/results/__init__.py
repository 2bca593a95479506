"""Folders of results: their manifests, and their unfinished work."""
