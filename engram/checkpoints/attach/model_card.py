"""The model card of a memory: what was added, to what, and how to load it."""

from engram.addressing.addresses import Addresses
from engram.checkpoints.read.base_checkpoint import BaseCheckpoint
from engram.config.engram_config import EngramConfig
from engram.storage.dtypes import row_bytes
from engram.units import format_bytes


def model_card(
    base: BaseCheckpoint, config: EngramConfig, addresses: Addresses, auto_class: str | None
) -> str:
    """Write the card of an attached checkpoint, or of an adapter.

    Args:
        base: What the memory was attached to.
        config: The memory.
        addresses: Its constants.
        auto_class: transformers' Auto class that loads the attached checkpoint; None for an
            adapter.

    Returns:
        Markdown with the metadata that the hub reads.
    """
    layout = config.rules
    # The lines of metadata by which the hub shows a model beside its base.
    base_model = f"base_model: {base.hub_id}\n" if base.hub_id else ""
    if base.hub_id and not auto_class:
        base_model += "base_model_relation: adapter\n"
    per_head = ", ".join(f"{rows:,}" for rows in config.rows_per_head)
    return f"""---
library_name: transformers
{base_model}tags: [engram]
---

# {base.name} with an Engram memory

A hashed n-gram memory (layout `{config.layout}`: {layout.title}) was attached to {base.name}
({base.params:,} parameters). The base's weights are unchanged.

{layers_table(config, addresses)}

N-gram orders {", ".join(map(str, config.orders))}, {config.n_head_per_ngram} heads an order,
{config.row_width} values a row; nominal rows per head {per_head}.
Addresses: `{addresses.fingerprint}`.

## Use

{_use(base, auto_class)}"""


def layers_table(config: EngramConfig, addresses: Addresses) -> str:
    """Write the table of a memory's layers: the part of its card that its dtype changes."""
    dense = sum(config.rules.dense_parts(config.sizes).values())
    dtype = config.stored_dtype().name
    bytes_per_row = row_bytes(config.row_width, dtype)
    rows = "\n".join(
        f"| {layer.layer_id} | {layer.hash_rows:,} | {layer.stored_rows * config.row_width:,} | "
        f"{dense:,} | {format_bytes(layer.stored_rows * bytes_per_row)} |"
        for layer in addresses.layers
    )
    return f"""| layer (0-based) | rows | table parameters | other parameters | table ({dtype}) |
|---|---|---|---|---|
{rows}"""


def _use(base: BaseCheckpoint, auto_class: str | None) -> str:
    """Say how to load a checkpoint; an adapter is loaded together with its base."""
    if auto_class is None:
        name = base.hub_id or f"path/to/{base.name}"
        return f"""```python
import engram

model = engram.load("{name}", "path/to/this/folder")
```

This is the memory alone, without its base; both may be hub ids. It needs the toolkit:
`pip install engram-toolkit`.
"""
    return f"""```python
import engram

model = engram.load("path/to/this/folder")
```

`{auto_class}.from_pretrained` loads it too: after `import engram.hf`, or with
`trust_remote_code=True`. Both need the toolkit: `pip install engram-toolkit`.
"""
