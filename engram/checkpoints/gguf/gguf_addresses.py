"""`gguf_addresses`: the constants that a GGUF file states, as engines read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses, LayerAddresses, map_digest
from engram.checkpoints.gguf.gguf_memory import TOKENS, GgufMemory
from engram.errors import CorruptFileError, MismatchError, MissingFileError
from engram.storage.gguf_headers import GgufTensor
from engram.storage.gguf_values import INTEGERS

# Integer types of ggml that constants are stored as.
_DTYPES = {"I32": "<i4", "I64": "<i8"}
_MOST_BYTES = 2**26


def gguf_addresses(memory: GgufMemory) -> Addresses:
    """Build addresses of the constants that a file states; nothing is computed in their place.

    Args:
        memory: The file.

    Returns:
        The constants, with their token map if compressed ids are hashed.

    Raises:
        MissingFileError: The file lacks constants, or the table of a layer.
        MismatchError: Its constants do not fit each other, or its tables.
        CorruptFileError: A constant is not of whole numbers, or cannot be read.
    """
    layout, layer_ids, columns = memory.layout, memory.layer_ids, memory.columns
    primes, factors = read_numbers(memory, "primes"), read_numbers(memory, "multipliers")
    if not layer_ids or columns is None:
        raise _lacks(memory, "its layers, n-gram orders and heads")
    orders, heads = memory.orders or 0, memory.heads or 0
    rows = {table.layer_id: table.rows for table in memory.tables}
    _demand(memory, "primes", len(primes), len(layer_ids) * columns)
    _demand(memory, "multipliers", len(factors), len(layer_ids) * orders)
    layers = []
    for place, layer_id in enumerate(layer_ids):
        if layer_id not in rows:
            raise _lacks(memory, f"the table of layer {layer_id}")
        own = primes[place * columns : (place + 1) * columns]
        layers.append(
            LayerAddresses(
                layer_id,
                tuple(factors[place * orders : (place + 1) * orders]),
                tuple(tuple(own[at : at + heads]) for at in range(0, columns, heads)),
                rows[layer_id],
            )
        )
    _check_rows(memory, layers)
    if layout.hashes == "raw":
        return _of_raw_ids(memory, layers)
    return _of_compressed_ids(memory, layers)


def _of_compressed_ids(memory: GgufMemory, layers: Sequence[LayerAddresses]) -> Addresses:
    token_map = whole_numbers(read_numbers(memory, "token_map"))
    stated = memory.integer("compressed_vocab_size")
    vocab_size = int(token_map.max(initial=-1)) + 1 if stated is None else stated
    if not len(token_map) or token_map.min() < 0 or token_map.max() >= vocab_size:
        raise MismatchError(
            f"{memory.name}: entries of the token map are not all in 0..{vocab_size - 1}.",
            path=memory.name,
            compressed_vocab_size=vocab_size,
        )
    tokens = memory.vocab_size or 0
    if len(token_map) < tokens:
        raise MismatchError(
            f"{memory.name}: the token map has {len(token_map):,} entries for {tokens:,} tokens.",
            f"See what is wrong: engram verify {memory.name}",
            path=memory.name,
            entries=len(token_map),
            tokens=tokens,
        )
    pad = memory.integer("pad_id")
    bound = len(token_map) if memory.dialect.pad_is_raw else vocab_size
    if pad is None:
        raise _lacks(memory, memory.dialect.facts["pad_id"].name)
    if not 0 <= pad < bound:
        raise MismatchError(
            f"{memory.name}: the pad id {pad} is not in 0..{bound - 1}.",
            path=memory.name,
            value=pad,
        )
    token_map32 = token_map.astype(np.int32)
    return Addresses(
        memory.layout,
        tuple(layers),
        map_digest(token_map32),
        len(token_map),
        vocab_size,
        int(token_map[pad]) if memory.dialect.pad_is_raw else pad,
        token_map32,
    )


def _of_raw_ids(memory: GgufMemory, layers: Sequence[LayerAddresses]) -> Addresses:
    end_id, vocab_size = memory.integer("eos_token_id"), memory.vocab_size
    if end_id is None:
        raise _lacks(memory, "the id of the token that ends documents")
    if vocab_size is None:
        raise _lacks(memory, TOKENS)
    if not 0 <= end_id < vocab_size:
        raise MismatchError(
            f"{memory.name}: token {end_id} ends documents, and there are {vocab_size:,} tokens.",
            path=memory.name,
            value=end_id,
        )
    return Addresses(
        memory.layout,
        tuple(layers),
        None,
        vocab_size,
        vocab_size,
        end_id,
        end_id=end_id,
    )


def read_numbers(memory: GgufMemory, fact: str) -> list[int]:
    """Read a list of whole numbers, of a key or of a tensor.

    Args:
        memory: The file.
        fact: Our name of the constant.

    Raises:
        MissingFileError: The file does not state it.
        CorruptFileError: It is not of whole numbers, or the file ends before it does.
    """
    value, tensor = memory.value(fact), memory.tensor(fact)
    if value is not None:
        if not value.is_array or value.kind not in INTEGERS:
            raise CorruptFileError(
                f"{memory.name}: {value.key} is {value.described()}, not a list of whole numbers.",
                "Convert the file again.",
                path=memory.name,
                key=value.key,
            )
        return [int(number) for number in value.numbers().tolist()]
    if tensor is not None:
        return [int(number) for number in _read(tensor).tolist()]
    place = memory.dialect.facts.get(fact)
    raise _lacks(memory, fact if place is None else place.name)


def whole_numbers(numbers: Sequence[int]) -> NDArray[np.int64]:
    """Return numbers as an array; those beyond 63 bits, which are of no id, become the largest."""
    largest = np.iinfo(np.int64).max
    return np.array([min(number, largest) for number in numbers], dtype=np.int64)


def _read(tensor: GgufTensor) -> NDArray[np.signedinteger]:
    """Read a small tensor of whole numbers, in the order of the file ``[size]``."""
    kind = tensor.type_name
    size = tensor.data_bytes or 0
    if kind not in _DTYPES or size > _MOST_BYTES:
        raise CorruptFileError(
            f"{tensor.path}: {tensor.name} is {kind} {list(tensor.dims)}, not whole numbers.",
            "Convert the file again.",
            path=str(tensor.path),
            tensor=tensor.name,
        )
    return np.frombuffer(tensor.read(0, size), _DTYPES[kind])


def _check_rows(memory: GgufMemory, layers: Sequence[LayerAddresses]) -> None:
    """Refuse heads that reach beyond the table, and offsets that are not those of the heads."""
    for layer in layers:
        if layer.hash_rows > layer.stored_rows or min(layer.heads) < 1:
            raise MismatchError(
                f"{memory.name}: layer {layer.layer_id}: its heads have {layer.hash_rows:,} rows, "
                f"its table has {layer.stored_rows:,}.",
                "Convert the file again.",
                path=memory.name,
                layer_id=layer.layer_id,
            )
    if "offsets" not in memory.stated_types:
        return
    stated = read_numbers(memory, "offsets")
    expected = [offset for layer in layers for offset in layer.offsets]
    if stated != expected:
        raise MismatchError(
            f"{memory.name}: its offsets are not the running sums of its primes.",
            "Convert the file again.",
            path=memory.name,
        )


def _demand(memory: GgufMemory, fact: str, found: int, expected: int) -> None:
    if found != expected:
        raise MismatchError(
            f"{memory.name}: {fact} has {found:,} entries, not {expected:,}.",
            "Convert the file again.",
            path=memory.name,
            constant=fact,
            found=found,
            expected=expected,
        )


def _lacks(memory: GgufMemory, what: str) -> MissingFileError:
    return MissingFileError(
        f"{memory.name} lacks {what}: its rows cannot be found.",
        f"See all that it lacks: engram report {memory.name}",
        path=memory.name,
        missing=what,
    )
