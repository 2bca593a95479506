"""Memories that a published format, or a dialect of engines, has no place for."""

from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError
from engram.layouts import get_layout
from engram.storage.dtypes import QUANTISED


def check_expressible(config: EngramConfig, to: str, dtype: str) -> None:
    """Refuse what a published format has no place for.

    Args:
        config: The memory.
        to: Layout whose names are to be used.
        dtype: dtype of the tables.

    Raises:
        LayoutError: With the reason.
    """
    layout = get_layout(to)
    if config.layout != to:
        raise LayoutError(
            f"A memory of layout {config.layout} cannot be written as {to}: {layout.apart}.",
            f"Its own names are: --to {config.layout}",
            layout=config.layout,
            to=to,
        )
    demand_ends(config, to)
    if dtype in QUANTISED and not (dtype == "fp8" and layout.table_block):
        raise LayoutError(
            f"The published format of {to} has no tensors for {dtype} tables.",
            "Use --dtype bfloat16 or float32, or --to attached.",
            to=to,
            dtype=dtype,
        )


def demand_ends(config: EngramConfig, to: str) -> None:
    """Refuse a memory that ends documents where its layout, as it is published, does not.

    Args:
        config: The memory.
        to: Layout or dialect that is to be written.

    Raises:
        LayoutError: It does.
    """
    if config.ends_after_eos and not config.rules.ends_after_eos:
        raise LayoutError(
            f"The memory ends documents with token {config.eos_id}, which the published format of "
            f"{to} does not: whoever reads it would look rows up across documents.",
            "Write it as --to attached.",
            to=to,
            eos_id=config.eos_id,
        )
