"""First values of the projection that turns what was read into what is added to the hidden state.

Shapes: D hidden size, E memory width.
"""

import torch
from torch import Tensor, nn

from engram.config.init import Init
from engram.nn.orthogonal import orthogonal


@torch.no_grad()
def start_value(weight: Tensor, bias: Tensor | None, init: Init) -> None:
    """Give a value projection its first values where `init` asks for others than torch's own.

    With ``identity`` it is zero. With ``zero-table`` the table is, and the projection orthogonal,
    so that rows get gradients of one size from the first step on; its bias is zero. With ``paper``
    nothing changes.

    Args:
        weight: The projection ``[D, E]``, or the rows of a fused one that give the value.
        bias: Its bias ``[D]``; None for none.
        init: See `EngramModule.reset_parameters`.
    """
    if init == "paper":
        return
    if init == "identity":
        nn.init.zeros_(weight)
    else:
        weight.copy_(orthogonal(*weight.shape))
    if bias is not None:
        nn.init.zeros_(bias)
