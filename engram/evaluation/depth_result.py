"""`Depth`: result of `measure_depth`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engram.evaluation.evaluated_text import Split

SCHEMA = "engram.depth/1"


@dataclass(frozen=True)
class LensDifference:
    """Difference of two runs' divergence in their early layers, a minus b.

    Attributes:
        a: A run.
        b: Another.
        nats: Difference in nats a token: below zero where early layers of a are nearer to its last
            prediction than those of b to its own.
        low: Lower end of a 95 % interval over documents; None of a single document.
        high: Upper end.
    """

    a: str
    b: str
    nats: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, repr=False)
class Depth:
    """Result of `measure_depth`: every layer's prediction, and its likeness to layers of the base.

    Attributes:
        target: The model.
        base: The base, where another than the model without its memory was named.
        text: The text, as it was named.
        split: Whether documents were read that a run of training held out of it, or of all.
        documents: Documents that were read.
        tokens: Tokens N over which everything is estimated.
        context: Tokens of a window.
        memory_layers: Layers that read the memory.
        lens: By run, for each layer: divergence KL(last || layer) of the prediction after it from
            the run's own last one, nats a token.
        lens_loss: By run, for each layer: loss of the prediction after it, nats a token; that of
            the last one is the run's loss.
        differences: Runs compared in their early layers.
        cka: By run: CKA of layer i of the base with layer j of the run, as ``[i][j]``.
        nearest: Layers of the base that an effective depth averages.
        effective_depth: By run, for each layer: the layers of the base that it resembles; see
            `effective_depths`. That of ``base`` is what a model without a memory gets.
        notes: Sentences that belong to the numbers.
    """

    target: str
    base: str | None
    text: str
    split: Split
    documents: int
    tokens: int
    context: int
    memory_layers: tuple[int, ...]
    lens: dict[str, list[float]]
    lens_loss: dict[str, list[float]]
    differences: tuple[LensDifference, ...]
    cka: dict[str, list[list[float]]]
    nearest: int
    effective_depth: dict[str, list[float | None]]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        early = self.early
        return f"<Depth: early layers {early['on']:.4g} nats on, {early['base']:.4g} base>"

    @property
    def layers(self) -> int:
        """Decoder layers of the model."""
        return len(self.lens["on"])

    @property
    def early(self) -> dict[str, float]:
        """Mean divergence over the early layers, by run."""
        return {name: self._early_mean(found) for name, found in self.lens.items()}

    @property
    def early_loss(self) -> dict[str, float]:
        """Mean loss of predictions after the early layers, by run."""
        return {name: self._early_mean(found) for name, found in self.lens_loss.items()}

    @property
    def early_layers(self) -> list[int]:
        """The early layers: the first half, from the first one on that reads the memory."""
        return [*range(self.layers)[early_layers(self.layers, min(self.memory_layers))]]

    @property
    def threshold(self) -> float:
        """Divergence of the base after the last of its early layers."""
        nats = self.lens["base"]
        return nats[early_layers(len(nats), min(self.memory_layers))][-1]

    @property
    def reaches(self) -> dict[str, int]:
        """By run: the layer from which on its divergence is at most the `threshold`."""
        return {name: settled(found, self.threshold) for name, found in self.lens.items()}

    @property
    def depth_gained(self) -> dict[str, float]:
        """Mean of a run's effective depths less those of the base with itself, in layers.

        Runs of another number of layers than the base are left out.
        """
        of_base = self.effective_depth["base"]
        gained = {}
        for name, depths in self.effective_depth.items():
            pairs = [
                (own, base)
                for own, base in zip(depths, of_base, strict=False)
                if own is not None and base is not None
            ]
            if len(depths) == len(of_base) and pairs:
                gained[name] = sum(own - base for own, base in pairs) / len(pairs)
        return gained

    def _early_mean(self, values: list[float]) -> float:
        found = values[early_layers(len(values), min(self.memory_layers))]
        return sum(found) / len(found)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram depth --json`` prints."""
        return {
            "schema": SCHEMA,
            "target": self.target,
            "base": self.base,
            "text": self.text,
            "split": self.split,
            "documents": self.documents,
            "tokens": self.tokens,
            "context": self.context,
            "layers": self.layers,
            "memory_layers": list(self.memory_layers),
            "early_layers": self.early_layers,
            "lens": self.lens,
            "lens_loss": self.lens_loss,
            "early": self.early,
            "early_loss": self.early_loss,
            "threshold": self.threshold,
            "reaches": self.reaches,
            "differences": [asdict(it) for it in self.differences],
            "cka": [
                {"a": name, "b": "base", "matrix": matrix} for name, matrix in self.cka.items()
            ],
            "nearest": self.nearest,
            "effective_depth": self.effective_depth,
            "depth_gained": self.depth_gained,
            "notes": list(self.notes),
        }


def early_layers(layers: int, first: int) -> slice:
    """Return the early layers of a model: its first half, without those before the memory.

    Args:
        layers: Layers of the model.
        first: The first layer that reads the memory; those before it know nothing of it. Where it
            is in the second half, it alone counts.
    """
    first = min(first, layers - 1)
    return slice(first, max(first + 1, layers // 2))


def settled(divergences: Sequence[float], threshold: float) -> int:
    """Return the first layer from which on no divergence is above a threshold.

    Args:
        divergences: By layer; that of the last layer is zero.
        threshold: At least zero.
    """
    above = [layer for layer, nats in enumerate(divergences) if nats > threshold]
    return above[-1] + 1 if above else 0
