"""Memories in transformers models. Importing this makes `Auto` classes and pipelines load them."""

from __future__ import annotations

from engram.hf.models import model_classes, register_families
from engram.hf.wiring import find_layers, wire

__all__ = ["find_layers", "model_classes", "wire"]

register_families()
