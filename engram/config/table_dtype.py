"""The dtype of a memory's tables, the source of the choice, and what follows for training."""

from dataclasses import dataclass
from typing import Literal

from engram.storage.dtypes import QUANTISED

Origin = Literal["asked", "config", "base", "assumed"]

# The dtype if neither the config nor a base states one.
ASSUMED = "float32"
# Formats of stored rows that no optimiser updates in place.
INFERENCE_DTYPES = (*QUANTISED, "fp4", "int4")

_SAID = {
    "asked": "as requested",
    "config": "as the config says",
    "base": "the base's own",
    "assumed": "assumed: neither the config nor a base states one",
}


@dataclass(frozen=True)
class TableDtype:
    """The dtype of a memory's tables.

    Attributes:
        name: float32, bfloat16, float16, float64, fp8 or int8.
        origin: The source of the choice: the caller, the config, the base, or an assumption.
    """

    name: str
    origin: Origin

    def __str__(self) -> str:
        """Return the dtype and the source of the choice."""
        return f"{self.name}, {_SAID[self.origin]}"

    @property
    def around(self) -> str:
        """The dtype of modules around a table: the table's, or bfloat16 if it is quantised."""
        return "bfloat16" if self.name in INFERENCE_DTYPES else self.name

    @property
    def note(self) -> str | None:
        """Return a sentence about tables that cannot be trained; None for those that can."""
        if self.name not in INFERENCE_DTYPES:
            return None
        return (
            f"Tables in {self.name} cannot be trained. To train the memory, use bfloat16 or "
            "float32; engram convert quantises it afterwards."
        )


def loading_note(name: str, base_dtype: str) -> str | None:
    """Return a sentence about tables that are loaded in a dtype other than the stored one.

    Args:
        name: Dtype of the tables.
        base_dtype: Float dtype of the base.

    Returns:
        The sentence; None if they are loaded as stored.
    """
    if name in INFERENCE_DTYPES or name == base_dtype:
        return None
    return (
        f"Models are loaded in one dtype, the base's: tables in {name} become {base_dtype} unless "
        f'engram.load is given dtype=torch.{name}; with tables="disk" they stay as they are.'
    )
