"""Exports the constants of a memory in the forms that engines read: JSON, binary, C, Verilog."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engram.arguments import checked
from engram.config.engram_config import EngramConfig
from engram.engines.constants_files import c_header, dse1, memh, npy, token_list
from engram.engines.export_folder import ExportedFile, ExportFolder
from engram.engines.exported_memory import ExportedMemory, find_exported
from engram.version import __version__

SCHEMA = "engram.constants/1"
MANIFEST = "constants.json"
# Files of the token map, and of forms that cannot do without one.
_MAP_FILES = (
    "engram_token_map.bin",
    "token_map.npy",
    "engram_token_map.json",
    "token_map.memh",
    "constants.dse1",
)


@dataclass(frozen=True, repr=False)
class ExportedConstants:
    """Result of `export_constants`.

    Attributes:
        output: The folder.
        memory: The memory.
        files: The files beside constants.json.
        left_out: Names of files that this layout has no use for: it hashes token ids themselves.
    """

    output: str
    memory: ExportedMemory
    files: tuple[ExportedFile, ...]
    left_out: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<ExportedConstants of {self.memory.name}: {len(self.files) + 1} files>"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram constants --json`` prints: constants.json and where it is."""
        return {
            "schema": SCHEMA,
            "output": self.output,
            **describe_constants(self.memory),
            "left_out": list(self.left_out),
            "files": list(map(asdict, self.files)),
        }


@checked()
def export_constants(
    target: str | Path,
    output: str | Path,
    *,
    config: str | Path | EngramConfig | None = None,
    tokenizer: str | Path | None = None,
    overwrite: bool = False,
) -> ExportedConstants:
    """Write the constants of a memory as files that engines read.

    Args:
        target: A config file or a template's name; or an attached folder, an adapter, a folder or
            safetensors file with published names, or the hub id of one.
        output: The folder to appear.
        config: The memory, or its config file, where a checkpoint does not state it.
        tokenizer: Name or path of the tokenizer; the target's own when None.
        overwrite: Whether to replace a folder that this function wrote.

    Returns:
        The constants and the files; `to_dict()` is what ``engram constants --json`` prints.

    Raises:
        MissingFileError: There is no such target, or no tokenizer where the layout needs one.
        InputError: The target has no memory, or the output is there already.
        MismatchError: It is another tokenizer.

    Examples:
        >>> import engram
        >>> exported = engram.export_constants("attached", "constants")
        >>> "engram_constants.h" in [file.name for file in exported.files]
        True
    """
    memory = find_exported(target, config, tokenizer)
    folder = ExportFolder(Path(output), MANIFEST, SCHEMA, overwrite)
    addresses = memory.addresses
    writers = {
        "engram_constants.h": (
            "C header: static const arrays",
            lambda path: path.write_text(c_header(addresses), encoding="ascii"),
        ),
    }
    token_map = addresses.token_map
    if token_map is not None:
        writers |= {
            "engram_token_map.bin": (
                "token map: int32, little-endian",
                lambda path: path.write_bytes(token_map.astype("<i4").tobytes()),
            ),
            "token_map.npy": (
                "token map: int32, numpy",
                lambda path: path.write_bytes(npy(token_map)),
            ),
            "engram_token_map.json": (
                "token map: JSON list",
                lambda path: path.write_text(token_list(token_map), encoding="ascii"),
            ),
            "token_map.memh": (
                "token map: one hexadecimal word a line, for $readmemh",
                lambda path: path.write_text(memh(token_map), encoding="ascii"),
            ),
            "constants.dse1": (
                "token map and constants: DSE1 binary, little-endian",
                lambda path: path.write_bytes(dse1(addresses, token_map)),
            ),
        }
    left_out = tuple(name for name in _MAP_FILES if name not in writers)
    with folder.new() as part:
        files = folder.write(part, writers)
        folder.describe(part, {**describe_constants(memory), "left_out": list(left_out)}, files)
    return ExportedConstants(str(output), memory, files, left_out)


def describe_constants(memory: ExportedMemory) -> dict[str, Any]:
    """Return everything that decides row ids but the token map itself, for JSON."""
    addresses = memory.addresses
    layout = addresses.layout
    return {
        "target": memory.name,
        "toolkit_version": __version__,
        "layout": layout.name,
        "rule": describe_rule(memory),
        "fingerprint": addresses.fingerprint,
        "hashes": layout.hashes,
        "map_sha256": addresses.map_sha256,
        "raw_vocab_size": addresses.raw_vocab_size,
        "compressed_vocab_size": None if addresses.map_sha256 is None else addresses.vocab_size,
        "fill": addresses.fill,
        "end_id": addresses.end_id,
        "pad": _both_spaces(memory, memory.pad_id),
        "eos": _both_spaces(memory, memory.eos_id),
        "layer_ids": addresses.layer_ids,
        "orders": list(addresses.orders),
        "max_ngram_size": addresses.max_ngram_size,
        "heads": addresses.n_heads,
        "columns": addresses.n_columns,
        "layers": [
            {
                "layer_id": layer.layer_id,
                "rows": layer.stored_rows,
                "hash_rows": layer.hash_rows,
                "multipliers": list(map(str, layer.multipliers)),
                "multiplier_numbers": list(layer.multipliers),
                "primes": [list(row) for row in layer.primes],
                "offsets": list(layer.offsets),
            }
            for layer in addresses.layers
        ],
    }


def describe_rule(memory: ExportedMemory) -> dict[str, Any]:
    """Return the rule that turns token ids into row ids, in words and as settings."""
    addresses = memory.addresses
    layout = addresses.layout
    return {
        "name": layout.name,
        "source": layout.source,
        "ids": "row = offsets[layer][column] + mix_n mod primes[layer][column], column = (n - 2) * "
        "heads + head, mix_n = XOR over k = 0..n-1 of slot_k * multipliers[layer][k]",
        "slots": "slot_k is the compressed id of the token k positions back, or the fill where "
        "looking back is blocked; what is before a blocked token is blocked, too",
        "blocked": [
            "before the text, and before a token that starts a document",
            *([] if addresses.end_id is None else ["at a token with the id end_id, and before"]),
            *(["at a dead token, and before"] if layout.masked == "dead" else []),
        ],
        "dead_tokens": {
            "dead": "look-back stops at them; they read the fill in every slot",
            "absent": "look-back passes over them; they read the fill in every slot",
        }[layout.masked],
        "skips_dead_tokens": layout.masked == "absent",
    }


def _both_spaces(memory: ExportedMemory, token_id: int | None) -> dict[str, int | None]:
    return {"token_id": token_id, "compressed_id": memory.compressed_id(token_id)}
