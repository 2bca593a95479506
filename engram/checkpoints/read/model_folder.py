"""The folder of a model: as it was named, or the hub's after a download."""

from pathlib import Path

from engram.backbone.find_backbone import find_in_catalogue
from engram.checkpoints.read.attached_files import CONFIG_FILE
from engram.errors import MissingFileError
from engram.storage.file_names import refuse_empty
from engram.storage.gguf import refuse_gguf
from engram.storage.hub import probe


def resolve_model(
    model: str | Path, revision: str | None = None, *, trust_remote_code: bool = False
) -> Path:
    """Return the folder of a model: itself, or the hub's in the local cache after a download.

    Args:
        model: Folder, or id on the hub.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether the model's code is downloaded, too.

    Raises:
        UsageError: The name is empty.
        MissingFileError: There is no such folder, and no such model can be had from the hub.
    """
    refuse_empty(model, "the model")
    path = Path(model)
    if path.is_dir():
        return path
    refuse_gguf(path)
    if path.exists() or isinstance(model, Path) or model.startswith((".", "/", "~")):
        raise MissingFileError(
            f"{model} is not a folder with a checkpoint.",
            "Give a Hugging Face folder, or a hub id such as HuggingFaceTB/SmolLM2-135M.",
            model=str(model),
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # Pickled weights are never asked for.
    code = ["*.py"] if trust_remote_code else []
    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.md", "LICENSE*", *code]
    problem: Exception | None = None
    try:
        problem = probe(model, CONFIG_FILE, revision)
        offline = problem is not None
        return Path(
            snapshot_download(
                model, revision=revision, allow_patterns=wanted, local_files_only=offline
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(problem or error).strip() or type(problem or error).__name__).splitlines()[0]
        known = find_in_catalogue(model)
        hint = "Check the name and the connection (HF_TOKEN for gated models), or give a folder."
        if known is not None and known.name != model:
            hint = f"Of {model} only the sizes are known here; its hub id is {known.name}. {hint}"
        raise MissingFileError(
            f"{model} is not a folder here, and the hub does not give it: {reason}",
            hint,
            model=model,
        ) from None
