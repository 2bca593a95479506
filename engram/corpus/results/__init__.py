"""Folders of results: their manifests, and the work on them that is not finished."""
