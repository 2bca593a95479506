"""Statistics of a text's n-grams: distinct n-grams, rows hit, collisions, cache hits."""
