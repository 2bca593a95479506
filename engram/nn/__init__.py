"""The memory as torch modules: tables, look-up, gate and convolution."""

from __future__ import annotations

from engram.nn.demo import DemoModule
from engram.nn.embedding import MultiHeadEmbedding
from engram.nn.module import EngramModule
from engram.nn.offload import OffloadEmbedding

__all__ = ["DemoModule", "EngramModule", "MultiHeadEmbedding", "OffloadEmbedding"]
