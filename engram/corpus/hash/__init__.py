"""Hashes text for a memory: folders of hash ids, statistics, datasets."""
