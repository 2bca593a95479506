"""Linear centred kernel alignment (CKA) between the layers of two models, and effective depth.

CKA(K, L) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of the Gram matrices K = X X^T and L = Y Y^T of
the same tokens' states in two layers (Kornblith et al. 2019, arXiv 1905.00414). HSIC is estimated
without bias (Song et al. 2012) and averaged over minibatches of tokens before the quotient is taken
(Nguyen et al. 2021, arXiv 2010.15327): the plain estimator finds any two layers alike where tokens
are not far more than channels. arXiv 2601.07372, section 6.1.2, does the same.

Shapes: n tokens of a minibatch, M streams, D hidden size, L layers, P = n (n - 1) / 2 pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Tokens of a minibatch. What is kept of a model is half as many numbers for each layer and token.
MINIBATCH = 128
# The estimator has a factor 1 / (n (n - 3)).
FEWEST_TOKENS = 4


class Grams(NamedTuple):
    """Centred Gram matrices of one minibatch in every layer of a model.

    Attributes:
        pairs: What is above the diagonal, float32 ``[L, P]`` on the CPU; the diagonal is zero.
        tokens: Tokens n.
    """

    pairs: Tensor
    tokens: int


def minibatches(tokens: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Divide tokens into minibatches of about equal size, in random order.

    Neighbours in a text are more alike than tokens of different places.

    Args:
        tokens: How many there are; below `FEWEST_TOKENS` there is no minibatch.
        generator: Decides the order.

    Yields:
        Places of the tokens ``[n]``, `FEWEST_TOKENS` to `MINIBATCH` of them.
    """
    order = torch.randperm(tokens, generator=generator)
    if tokens >= FEWEST_TOKENS:
        yield from order.tensor_split(-(-tokens // MINIBATCH))


def centred_grams(states: Sequence[Tensor]) -> Grams:
    """Compute the Gram matrix of each layer's states, centred for the unbiased estimator.

    Args:
        states: States after each layer of the same tokens, ``[n, D]`` or ``[n, M, D]``; several
            streams count as one state of M x D channels.

    Returns:
        K with its diagonal set to zero, less the sums of rows and columns over n - 2, plus the sum
        of all over (n - 1) (n - 2). The inner product of two of them, over n (n - 3), is the
        unbiased HSIC.
    """
    tokens = len(states[0])
    above = torch.triu_indices(tokens, tokens, offset=1)
    pairs = torch.empty(len(states), above.shape[1])
    for number, state in enumerate(states):
        wide = state.flatten(1).to(torch.promote_types(state.dtype, torch.float32))
        # Changes nothing but rounding: the mean is often far longer than the differences.
        wide = wide - wide.mean(dim=0)
        gram = (wide @ wide.T).cpu().double().fill_diagonal_(0)
        rows = gram.sum(dim=0) / (tokens - 2)
        gram -= rows[:, None] + rows[None, :] - rows.sum() / (tokens - 1)
        pairs[number] = gram[above[0], above[1]].float()
    return Grams(pairs, tokens)


class Alignment:
    """CKA between all layers of two models, over minibatches that come one after the other."""

    def __init__(self) -> None:
        self._cross: Tensor | float = 0.0
        self._own_a: Tensor | float = 0.0
        self._own_b: Tensor | float = 0.0

    def add(self, a: Grams, b: Grams) -> None:
        """Take in a minibatch, of the same tokens in both models; it counts by its tokens."""
        # Each pair stands for two entries: 2 n / (n (n - 3)).
        weight = 2 / (a.tokens - 3)
        pairs_a, pairs_b = a.pairs.double(), b.pairs.double()
        self._cross = self._cross + weight * (pairs_b @ pairs_a.T)
        self._own_a = self._own_a + weight * pairs_a.square().sum(dim=1)
        self._own_b = self._own_b + weight * pairs_b.square().sum(dim=1)

    def matrix(self) -> list[list[float]]:
        """Return CKA of layer i of b with layer j of a, as ``[i][j]``; 0 for states without change.

        It is 1 for layers that are equal up to rotation and scale, about 0 for independent ones,
        and may be below 0 by chance.
        """
        own_a, own_b = torch.as_tensor(self._own_a), torch.as_tensor(self._own_b)
        norms = (own_b[:, None] * own_a[None, :]).sqrt()
        tiny = torch.finfo(torch.float64).tiny
        found: list[list[float]] = (torch.as_tensor(self._cross) / norms.clamp_min(tiny)).tolist()
        return found


def effective_depths(matrix: Sequence[Sequence[float]], nearest: int) -> list[float | None]:
    """Return the soft alignment index of each layer: the layers of the base that it resembles.

    a_j = sum over i in I_j of S_ij i / sum over i in I_j of S_ij, with I_j the `nearest` layers i
    of the base with the largest S_ij (arXiv 2601.07372, equation 9, which counts layers from 1).
    Negative S_ij count as 0.

    The index of a model with itself is above j in its first layers and below j in its last ones,
    since there is nothing before the first and after the last: compare with that, not with j.

    Args:
        matrix: CKA of layer i of the base with layer j, as ``[i][j]``.
        nearest: Layers in the average.

    Returns:
        The index by layer j, in layers of the base from 0; None where nothing resembles it.
    """
    similarity = torch.tensor(matrix, dtype=torch.float64).clamp_min(0)
    weights, layers = similarity.topk(min(nearest, len(similarity)), dim=0)
    sums = weights.sum(dim=0)
    found = ((weights * layers).sum(dim=0) / sums).tolist()
    return [it if total > 0 else None for it, total in zip(found, sums.tolist(), strict=True)]
