"""Files of a memory's tensors that lie beside a checkpoint's index, which does not name them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engram.errors import CorruptFileError
from engram.storage.file_names import is_inside
from engram.storage.stored import Files

# exllamav3 keeps the table out of line; omlx names the files of V4.1's tables in its config.
_EXL3_FILE = "ngram_embedding.safetensors"
_OMLX, _OMLX_TABLES = "omlx_deepseek_v41", "engram_tables"
_OMLX_PARTS = ("weight", "scale", "bias")


def side_files(folder: Path, config: Mapping[str, Any]) -> Files:
    """Name the files of tables that an index leaves out, with the tensors that count in each.

    Args:
        folder: The checkpoint.
        config: Its config.json.

    Raises:
        CorruptFileError: The config names a file outside of the folder, or none.
    """
    quantised = config.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
    files: dict[str, list[str] | None] = {}
    if method == "exl3" and (folder / _EXL3_FILE).is_file():
        files[_EXL3_FILE] = None
    block = config.get(_OMLX)
    tables = block.get(_OMLX_TABLES) if isinstance(block, Mapping) else None
    for place, table in tables.items() if isinstance(tables, Mapping) else ():
        for tensor, file in _tensors(table):
            if not (is_inside(file) and file.endswith(".safetensors") and isinstance(tensor, str)):
                raise CorruptFileError(
                    f"{folder}/config.json: {_OMLX}.{_OMLX_TABLES}.{place} names {tensor!r} in "
                    f"{file!r}, outside of the folder or not a .safetensors file.",
                    "Copy or convert the checkpoint again.",
                    path=str(folder),
                )
            names = files.setdefault(file, [])
            if names is not None and tensor not in names:
                names.append(tensor)
    return files


def _tensors(table: Any) -> list[tuple[Any, Any]]:
    """The tensors of a table, each with its file: biases lie with the scales."""
    if not isinstance(table, Mapping):
        return [(None, None)]
    found = [(table.get(f"{part}_key"), table.get(f"{part}_file")) for part in _OMLX_PARTS]
    scale_file = table.get("scale_file")
    stated = [(key, file or scale_file) for key, file in found if key is not None]
    return stated or [(None, None)]
