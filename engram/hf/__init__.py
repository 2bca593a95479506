"""Memories in transformers models; importing this registers them with `Auto` classes."""

from engram.hf import compat
from engram.hf.families import classes_of_code, model_classes, register_families
from engram.hf.wiring import find_layers, wire

__all__ = ["classes_of_code", "find_layers", "model_classes", "wire"]

compat.check()
register_families()
