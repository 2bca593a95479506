"""How a text fills the tables: distinct n-grams, rows hit, collisions, cache hits."""
