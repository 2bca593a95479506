"""Documents to token ids, and the shards that keep them."""
