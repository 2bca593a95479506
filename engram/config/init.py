"""`Init`: first values of a memory's weights."""

from typing import Literal

Init = Literal["identity", "zero-table", "paper"]

# Those that leave the output of a model as it was, bit for bit, until the memory is trained.
IDENTITIES: tuple[Init, ...] = ("identity", "zero-table")
