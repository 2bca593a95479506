"""The memory as torch modules: tables, look-up, gate and convolution."""

from __future__ import annotations

from engram.nn.deepseek_v41 import DeepseekV41Module
from engram.nn.demo import DemoModule
from engram.nn.disk import DiskEmbedding
from engram.nn.embedding import MultiHeadEmbedding
from engram.nn.module import EngramModule
from engram.nn.offload import OffloadEmbedding
from engram.nn.quantised_disk import QuantisedDiskEmbedding
from engram.nn.quantised_embedding import QuantisedEmbedding
from engram.nn.qwen_ple import QwenPleModule

__all__ = [
    "DeepseekV41Module",
    "DemoModule",
    "DiskEmbedding",
    "EngramModule",
    "MultiHeadEmbedding",
    "OffloadEmbedding",
    "QuantisedDiskEmbedding",
    "QuantisedEmbedding",
    "QwenPleModule",
]
