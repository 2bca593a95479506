"""Published checkpoints with a memory: recognised, described and checked from headers."""
