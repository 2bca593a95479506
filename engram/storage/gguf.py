"""Recognises GGUF files, and refuses them where another format is needed."""

from contextlib import suppress
from pathlib import Path

from engram.errors import InputError

_MAGIC = b"GGUF"


def is_gguf(path: Path) -> bool:
    """Whether a file starts as GGUF does, whatever its name."""
    with suppress(OSError):  # told by whoever reads the file
        if path.is_file():  # opening a pipe would take its writer from whoever reads the text
            with path.open("rb") as file:
                return file.read(len(_MAGIC)) == _MAGIC
    return False


def refuse_gguf(path: Path) -> None:
    """Refuse a GGUF file, whatever its name.

    Raises:
        InputError: It is one.
    """
    if is_gguf(path):
        raise InputError(
            f"{path} is a GGUF file, which engram report, verify, lookup and convert read; here a "
            "folder of transformers or a safetensors file is needed.",
            "Give the checkpoint that it was converted from, such as its hub id "
            "(organisation/name).",
            path=str(path),
            format="gguf",
        )


def refuse_gguf_folder(folder: Path) -> None:
    """Refuse a folder whose weights are GGUF files, where it has no config.json.

    Raises:
        InputError: There is a GGUF file in it.
    """
    with suppress(OSError):  # told by whoever reads the folder
        for file in sorted(folder.glob("*.gguf")):
            refuse_gguf(file)
