"""`Layout`: a published family as data. `Naming`: the part of it that files need."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, Literal

from engram.layouts.dialect import Dialect, Key, Slot
from engram.layouts.tensors import CONSTANTS, Tensor, shape_of
from engram.tensor_names import TABLE


@dataclass(frozen=True, kw_only=True, eq=False)
class Naming:
    """Names of a family's memory in files.

    Attributes:
        name: Name in configs.
        title: One line for people.
        files_title: The same of its published files; the title when empty.
        dialects: Names in files. The first are those of the release, and are written.
        mark: Our name of a tensor whose published name tells the family, where no config does.
        stated_by: Our name of a setting that configs with such a memory state.
        model_types: Starts of the ``model_type`` of configs with such a memory, whatever they
            state.
    """

    name: str
    title: str
    files_title: str = ""
    dialects: tuple[Dialect, ...]
    mark: str = TABLE
    stated_by: str = "layer_ids"
    model_types: tuple[str, ...] = ()

    @property
    def released(self) -> Dialect:
        """The names of the release."""
        return self.dialects[0]

    def states(self, config: Mapping[str, Any]) -> bool:
        """Whether a published config, or the text model's part of it, is of this family."""
        settings = (dialect.setting(self.stated_by) for dialect in self.dialects)
        is_stated = any(setting.stated(config) for setting in settings if setting)
        return is_stated or str(config.get("model_type", "")).startswith(self.model_types)

    def marks(self, name: str) -> bool:
        """Whether a tensor's name tells that its model is of this family."""
        slot = self.read(name)
        return slot is not None and slot.is_values and slot.key.known and slot.key.name == self.mark

    def part(self, slot: Slot) -> str:
        """Name the part of the memory that a tensor is counted under, such as ``wkv``."""
        if slot.role != "dense":
            return slot.role if slot.key.number is None else f"{slot.role}.{slot.key.number}"
        name = self.released.names.get(slot.key.name, slot.key.name)
        return name.rpartition("{layer}.")[2].split(".")[0]

    def read(self, name: str, *, inside: bool = False) -> Slot | None:
        """Tell what a tensor is by its name, in any dialect; see `Dialect.read`."""
        read = (dialect.read(name, inside=inside) for dialect in self.dialects)
        found = [slot for slot in read if slot is not None]
        return next((slot for slot in found if slot.key.known), found[0] if found else None)

    def spoken(self, names: Iterable[str]) -> Dialect:
        """Find the dialect that knows most of the names: the release's, unless another's do."""
        ours = [name for name in names if self.read(name) is not None]
        return max(self.dialects, key=lambda dialect: sum(map(dialect.knows, ours)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout(Naming):
    """A published family: its rules, its defaults, its tensors and their published names.

    All share the mix ``x_t*m0 ^ x_{t-1}*m1 ^ ...`` and tables of prime sizes.

    Attributes:
        source: The file or paper that the rules come from.
        module: Layout whose module in `engram.nn` does the arithmetic; its own when empty.
        hashes: Whether ids are first mapped to the compressed vocabulary.
        multiplier_draw: Generator of the hash multipliers.
        multiplier_key: What is added (times 10007) to the seed: the layer's id, or its index among
            the sorted ids.
        prime_order: Whether tables take their primes in the order of `layer_ids`, or in ascending
            order of layers.
        fill: Token that is read where looking back is blocked: the pad or the end-of-text token.
        ends_after_eos: Look-back does not reach an end-of-text token, nor past it.
        masked: Meaning of masked tokens inside a row: ``absent``: they are passed over, by the hash
            and by the convolution; ``dead``: look-back stops at them, and they hold their place.
        residual_included: The module returns the hidden state plus the memory, instead of the
            memory alone.
        seed: Default seed of the hash multipliers.
        seed_is_fixed: The layout has no seed of its own: only the default is right.
        eps: Default epsilon of the gate's norms; None means the machine epsilon of the
            computation's dtype.
        row_multiple: Default of what the stored rows of a layer are rounded up to a multiple of.
        kernel_size: Default taps of the convolution; 0 means that the layout has none.
        max_ngram_size: Default of the highest n-gram order.
        equal_tables: Every order must have the same table size.
        tensors: Parameters of one layer's module without its table, in the order of files.
        table_block: Rows and columns of the table that share a scale where the layout is published
            quantised; None where it is not, or in any way.
        known_maps: Digests of token maps, by the vocabulary that they compress and the size that
            they give: equal sizes of two compressed vocabularies do not make them equal.
        apart: Why a memory of another layout cannot be written as this one.
    """

    source: str
    module: str = ""
    hashes: Literal["compressed", "raw"]
    multiplier_draw: Literal["pcg64", "splitmix64"]
    multiplier_key: Literal["layer_id", "index"]
    prime_order: Literal["given", "sorted"]
    fill: Literal["pad", "eos"]
    ends_after_eos: bool
    masked: Literal["absent", "dead"]
    residual_included: bool
    seed: int
    seed_is_fixed: bool = False
    eps: float | None = None
    row_multiple: int = 1
    kernel_size: int
    max_ngram_size: int = 3
    equal_tables: bool = False
    tensors: tuple[Tensor, ...]
    table_block: tuple[int, int] | None = None
    known_maps: Mapping[tuple[int, int], str] = field(default_factory=dict)
    apart: str

    @cached_property
    def all_tensors(self) -> dict[str, Tensor]:
        """Parameters of one layer and constants of its hash by our name, the table last."""
        table = Tensor(TABLE, "R, W", self.table_block)
        return CONSTANTS | {tensor.name: tensor for tensor in (*self.tensors, table)}

    def letters(self, key: Key) -> str:
        """Shape of a tensor in the letters of the legend; that of a stream where it is of one."""
        shape = self.all_tensors[key.name].shape
        if key.number is None:
            return shape
        return shape.removeprefix("M, ").removeprefix("M*")

    def dense_shapes(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Shapes of one layer's parameters without its table, by our name.

        Args:
            sizes: Values of the legend's letters, as a config has them.
        """
        return {tensor.name: shape_of(tensor.shape, sizes) for tensor in self.tensors}

    def dense_parts(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Count the parameters of one layer's module without its table, part by part."""
        parts: dict[str, int] = defaultdict(int)
        for name, shape in self.dense_shapes(sizes).items():
            parts[name.split(".")[0]] += prod(shape)
        return dict(parts)
