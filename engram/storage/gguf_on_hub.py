"""`HubGguf`: a model in GGUF on the Hugging Face hub; only the headers of its files are fetched."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from engram.errors import InputError
from engram.storage import hub
from engram.storage.gguf_headers import GgufFile, read_gguf_header
from engram.storage.gguf_parts import NAMED, GgufFiles, join_parts, part_names
from engram.storage.hub_file import HubFile

_AT_A_TIME = 8


@dataclass(frozen=True)
class HubGguf:
    """A model in GGUF on the hub.

    Attributes:
        name: Id of the repository.
        file: Its file, or any part of a split one.
        revision: Branch, tag or commit; the newest when None.
    """

    name: str
    file: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.name}/{self.file}"

    def read(self) -> GgufFiles:
        """Read the headers of all of its parts, at one commit.

        Raises:
            MissingFileError: A part is not there, may not be seen, or cannot be reached.
            CorruptFileError: See `read_gguf_header` and `join_parts`.
        """
        first, *others = part_names(self.file)
        # A branch may move on between two parts.
        start = HubFile.at(self.name, first, self.revision)

        def header(file: str) -> GgufFile:
            return read_gguf_header(HubFile.at(self.name, file, start.revision))

        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            rest = pool.map(header, others)
            return join_parts([read_gguf_header(start), *rest])


def find_on_hub(name: str, revision: str | None) -> HubGguf | None:
    """Find the only model of a repository that holds GGUF files, and no safetensors.

    Args:
        name: Id of the repository.
        revision: Branch, tag or commit; the newest when None.

    Returns:
        The model, at the commit that was looked at; None where the repository holds something
        else, or the hub does not say, as whoever asks for its config will find out.

    Raises:
        InputError: It has several models.
    """
    try:
        files, commit = hub.list_files(name, revision)
    except Exception:  # versions of the client differ in their exceptions
        return None
    models = sorted({part_names(file)[0] for file in files if file.endswith(".gguf")})
    if not models or any(file.endswith(".safetensors") for file in files):
        return None
    if len(models) > 1:
        others = ", ..." if models[NAMED:] else ""
        raise InputError(
            f"{name} has {len(models)} models in GGUF files.",
            f"Give one of them: {', '.join(f'{name}/{it}' for it in models[:NAMED])}{others}.",
            path=name,
            models=models[:NAMED],
        )
    return HubGguf(name, models[0], commit or revision)
