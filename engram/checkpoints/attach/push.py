"""Uploads adapters to the hub."""

import os
from pathlib import Path

from engram.arguments import checked
from engram.checkpoints.read.attached_files import ADAPTER_FILE, CARD_FILE
from engram.checkpoints.read.joined_adapter import demand_file, open_adapter
from engram.storage.file_names import refuse_empty
from engram.storage.safetensors_headers import INDEX_FILE, read_weight_map


@checked()
def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload an Engram memory",
    create_pr: bool = False,
) -> str:
    """Upload an adapter to the hub: its own files, and nothing that lies beside them.

    Args:
        folder: A folder that `engram attach --adapter` wrote.
        repo_id: Id of the repository, which is made where there is none.
        private: Whether a new repository is private; the account's default when None.
        token: Token of the hub; the stored one when None.
        revision: Branch to upload to; main when None.
        commit_message: Title of the commit.
        create_pr: Make a pull request of it.

    Returns:
        The commit, to be given to `engram.load` as `adapter_revision`.

    Raises:
        MissingFileError: The folder is not an adapter, or lacks a file of it.
        CorruptFileError: Its settings or its index are damaged.

    Examples:
        >>> import engram
        >>> engram.push_to_hub("adapter", "me/memory")  # doctest: +SKIP
    """
    from huggingface_hub import HfApi

    refuse_empty(folder, "the folder")
    folder = Path(folder)
    open_adapter(folder)
    index = folder / INDEX_FILE
    demand_file(index)
    names = {ADAPTER_FILE, INDEX_FILE, *read_weight_map(index).values()}
    for name in sorted(names):
        demand_file(folder / name)
    names |= {CARD_FILE, *(path.name for path in folder.glob("*.py"))}
    # Read here, since huggingface_hub reads it only once, at import.
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    made = api.create_repo(repo_id, private=private, exist_ok=True)
    done = api.upload_folder(
        repo_id=made.repo_id,
        folder_path=folder,
        allow_patterns=sorted(names),
        revision=revision,
        commit_message=commit_message,
        create_pr=create_pr,
    )
    return str(done.oid)
