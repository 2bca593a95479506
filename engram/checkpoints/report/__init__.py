"""A report on a config or a checkpoint: parameters, bytes, reads, and whether they fit."""
