"""A text hashed for a memory: folders of hash ids, statistics, datasets."""
