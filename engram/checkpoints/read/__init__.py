"""Reads bases, attached checkpoints and memories: headers, settings, tensors, models."""
