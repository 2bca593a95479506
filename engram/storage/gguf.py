"""Recognises GGUF files, which are not read, and says what is."""

from contextlib import suppress
from pathlib import Path

from engram.errors import InputError

_MAGIC = b"GGUF"


def refuse_gguf(path: Path) -> None:
    """Refuse a GGUF file, whatever its name.

    Raises:
        InputError: It is one.
    """
    start = b""
    with suppress(OSError):  # told by whoever reads the file
        if path.is_file():  # opening a pipe would take its writer from whoever reads the text
            with path.open("rb") as file:
                start = file.read(len(_MAGIC))
    if start == _MAGIC:
        raise InputError(
            f"{path} is a GGUF file, a format that is not read; folders of transformers and "
            "safetensors files are.",
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
