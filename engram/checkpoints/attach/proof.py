"""Proves from headers that an attached checkpoint loads; compares its logits with the base's."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engram.checkpoints.read.attached_files import CONFIG_FILE
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.load_checkpoint import classes_of, load
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.checks import Verdict, first_of, verdict
from engram.errors import LayoutError, MismatchError
from engram.tensor_names import is_memory

_TOKENS = 32

Classes = tuple[Any, Any]
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


def check_loads(
    folder: Path,
    classes: Classes,
    config: dict[str, Any],
    tensors: Tensors,
) -> None:
    """Refuse a base of which an attached checkpoint would not load whole.

    Args:
        folder: The base.
        classes: Our config class and our model class.
        config: The attached checkpoint's config.json.
        tensors: Dtype tag and shape of every tensor, of the base and of the memory.

    Raises:
        LayoutError: A parameter of the base has no tensor, or one of another shape; or transformers
            cannot build the model.
    """
    problems = _problems(folder, classes, config, tensors)
    if problems:
        raise LayoutError(
            f"{folder}: the weights do not match config.json: {first_of(problems)}.",
            "Restore the config.json that belongs to these weights, or download the whole model.",
            path=str(folder),
            tensors=problems[:100],
        )


def judge_base_weights(memory: Checkpoint, trust_remote_code: bool) -> Verdict:
    """Check that loading an attached checkpoint would start no weight of its base at random.

    Args:
        memory: The attached checkpoint, whose files are here.
        trust_remote_code: Whether code beside its weights may run.
    """
    own_code, folder = memory.base.code is not None, memory.folder or Path(memory.name)
    if own_code and not trust_remote_code:
        return None, "it would run code in its folder (--trust-remote-code)"
    tensors = {name: (info.dtype, info.shape) for name, info in memory.tensors.items()}
    try:
        problems = _problems(folder, classes_of(memory), memory.model_config, tensors)
    except MismatchError as error:
        return None, error.message
    if problems is None:
        if own_code:
            return None, "only its own loading code knows which tensors it needs"
        return None, "quantised weights have other tensors than the model has parameters"
    return verdict(problems, "every parameter of the base has a tensor of its shape")


def max_logit_difference(base: Path, attached: Path, trust_remote_code: bool = False) -> float:
    """Run random tokens through both models.

    Args:
        base: Folder of the base checkpoint.
        attached: Folder with the memory.
        trust_remote_code: Whether code in the folders may run.

    Returns:
        The largest difference between their logits; 0.0 when they are equal bit for bit.

    Raises:
        LayoutError: transformers cannot load or run the base alone, or its logits are not finite.
    """
    import torch
    import transformers

    from engram.hf.admission import of_the_base
    from engram.hf.header_loading import without_bars
    from engram.hf.multimodal import auto_class_of

    opened = open_checkpoint(attached)
    auto_class = getattr(transformers, auto_class_of((opened.stated or {})["base"]))
    with torch.no_grad(), without_bars():
        with of_the_base(base, "run"):
            model = auto_class.from_pretrained(
                base, dtype="auto", trust_remote_code=trust_remote_code
            ).eval()
            # A padded vocabulary is larger than what tokenizer and memory know.
            own_size = model.config.get_text_config().vocab_size
            ids = torch.randint(
                0,
                min(opened.addresses.raw_vocab_size, own_size),
                (2, _TOKENS),
                generator=torch.Generator().manual_seed(0),
            )
            expected = model(input_ids=ids).logits
        del model
        if not bool(torch.isfinite(expected).all()):
            raise LayoutError(
                f"{base}: the base's own logits are NaN or infinite, whatever a memory adds.",
                "Download or save the base again.",
                path=str(base),
            )
        own = load(attached, trust_remote_code=trust_remote_code).eval()(input_ids=ids).logits
    return float((own - expected).abs().max())


def _problems(
    folder: Path, classes: Classes, config: dict[str, Any], tensors: Tensors
) -> list[str] | None:
    """List the weights of a base that would start at random; None where only loading tells."""
    import torch

    from engram.hf.admission import of_the_base
    from engram.hf.header_loading import load_from_headers

    config_class, model_class = classes
    own_code = config["engram"]["base"].get("auto_map") is not None
    with of_the_base(folder, "load"), TemporaryDirectory(prefix="engram-") as made:
        # Read from a file, since not every value is in a file what it is in memory.
        file = Path(made) / CONFIG_FILE
        file.write_text(json.dumps(config))
        hf_config = config_class.from_json_file(file)
        # Quantisers pack tensors and want their packages; code in the folder loads as it likes.
        # For these it is proved that the model can be built and wired.
        if own_code or getattr(hf_config, "quantization_config", None) is not None:
            with torch.device("meta"):
                model_class(hf_config)
            return None
        loading = load_from_headers(model_class, hf_config, tensors)
    found = [
        (name, f"is {list(stored)} in the files, and {list(expected)} by config.json")
        for name, stored, expected in loading.mismatched
    ]
    found += [(name, "is in no file, and would be random") for name in loading.random]
    return [f"{name} {what}" for name, what in found if not is_memory(name)]
