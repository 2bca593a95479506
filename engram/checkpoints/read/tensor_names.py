"""Names of a memory's tensors in its layer's module, beside those that the layout names."""

from __future__ import annotations

TABLE = "multi_head_embedding.embedding.weight"
SCALE = "multi_head_embedding.embedding.scale"
OFFSETS = "multi_head_embedding.offsets"
TOKEN_MAP = "token_map"
