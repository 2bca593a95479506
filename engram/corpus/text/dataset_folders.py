"""Finds the Arrow files of a data set that Hugging Face's `save_to_disk` wrote."""

from pathlib import Path

from engram.errors import InputError, MissingFileError
from engram.storage.json_files import FILE_NAME, read_json

# A data set lists its files; a dictionary of data sets has one in a folder for each split.
STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_STATE_SHAPE = {"_data_files": [{"filename": FILE_NAME}]}
_SPLITS_SHAPE = {"splits": [FILE_NAME]}
_AGAIN = "Copy the folder again, or write it again with save_to_disk."


def dataset_files(folder: Path) -> list[Path] | None:
    """Return the Arrow files of a data set, in order.

    Args:
        folder: The folder of a data set, or of a dictionary with a single one.

    Returns:
        The files; None when the folder is not a data set.

    Raises:
        InputError: It is a dictionary of several data sets.
        MissingFileError: A file that it lists is missing.
        CorruptFileError: Its state is torn or lists files elsewhere.
    """
    if (folder / SPLITS).is_file():
        splits = read_json(folder / SPLITS, _SPLITS_SHAPE, hint=_AGAIN)["splits"]
        if len(splits) != 1:
            raise InputError(
                f"{folder} holds several data sets: {', '.join(splits[:8])}.",
                f"Give one of them, such as {folder / splits[0] if splits else folder}.",
                folder=str(folder),
                splits=splits,
            )
        folder = folder / splits[0]
    elif not ((folder / STATE).is_file() and (folder / INFO).is_file()):
        return None
    state = read_json(folder / STATE, _STATE_SHAPE, hint=_AGAIN)
    if state.get("_indices_data_files"):
        raise InputError(
            f"{folder} is a choice of rows of other data, in the form of datasets before 2.0.",
            "Write it again with flatten_indices() and save_to_disk.",
            folder=str(folder),
        )
    files = [folder / file["filename"] for file in state["_data_files"]]
    for file in files:
        if not file.is_file():
            raise MissingFileError.at(file, _AGAIN, file=str(file))
    return files


def describes_dataset(path: Path) -> bool:
    """Whether a file describes the data set in its folder, and is not a text."""
    return path.name == SPLITS or (path.name in (STATE, INFO) and any(path.parent.glob("*.arrow")))
