"""From token ids to table rows: compressed vocabulary, primes, multipliers and hash kernels."""
