"""The memory as torch modules: tables, look-up, gate and convolution."""

from engram.nn.deepseek_v41 import DeepseekV41Module
from engram.nn.disk import DiskEmbedding
from engram.nn.embedding import MultiHeadEmbedding
from engram.nn.file_table import FileEmbedding
from engram.nn.gated_convolution import DemoModule, QwenPleModule
from engram.nn.module import EngramModule
from engram.nn.offload import OffloadEmbedding
from engram.nn.quantised_tables import QuantisedDiskEmbedding, QuantisedEmbedding
from engram.nn.sharded import ShardedEmbedding

__all__ = [
    "DeepseekV41Module",
    "DemoModule",
    "DiskEmbedding",
    "EngramModule",
    "FileEmbedding",
    "MultiHeadEmbedding",
    "OffloadEmbedding",
    "QuantisedDiskEmbedding",
    "QuantisedEmbedding",
    "QwenPleModule",
    "ShardedEmbedding",
]
