"""The dense control: a feed-forward part of as many parameters where a memory is.

Shapes: B sequences, T tokens, M streams, D hidden size, F width of the feed-forward part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from engram.arguments import checked
from engram.checkpoints.read.attached_files import CARD_FILE, CONTROL_FILE, TRAINING_FILES
from engram.checkpoints.read.load_checkpoint import load_opened
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.errors import CorruptFileError, MismatchError
from engram.hf.admission import of_the_base
from engram.hf.unwired import base_of
from engram.hf.wiring import find_layers
from engram.storage.files import write_json
from engram.storage.folders import new_folder
from engram.storage.json_files import COUNT, TEXT, Each, one_of, read_json
from engram.tensor_names import is_memory
from engram.training.controls import Control, memories_of
from engram.version import __version__

WEIGHTS_FILE = "engram_control.safetensors"
_SCHEMA = 1
_NORM_EPS = 1e-6
_LAYER = {"width": COUNT, "params": COUNT, "memory_params": COUNT}
_SHAPE = {
    "control": one_of("dense"),
    "seed": COUNT,
    "base": {"name": TEXT, "tensors_sha256": TEXT},
    "hidden_size": COUNT,
    "layers": Each(_LAYER),
}


class DensePart(nn.Module):
    """A normalised feed-forward part with SiLU; what it adds to the hidden states starts at zero.

    Args:
        hidden_size: Width D of the hidden states.
        width: Width F inside.
    """

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(hidden_size, eps=_NORM_EPS)
        self.up = nn.Linear(hidden_size, width, bias=False)
        self.down = nn.Linear(width, hidden_size, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return hidden states ``[B, T, D]``, or ``[B, T, M, D]``, with its output added."""
        inner = F.silu(self.up(self.norm(hidden_states)))  # [B, T, F]
        return hidden_states + cast(Tensor, self.down(inner)).to(hidden_states.dtype)

    @property
    def params(self) -> int:
        """Number of its parameters."""
        return sum(weight.numel() for weight in self.parameters())


def width_of_equal(params: int, hidden_size: int) -> int:
    """Return the width F of the `DensePart` whose parameters are nearest to a number.

    It has D for the norm and 2 * D * F for the projections, so that no number is missed by more
    than D, unless it is below 3 * D.
    """
    return max(1, round((params - hidden_size) / (2 * hidden_size)))


class Dense(Control):
    """A feed-forward part of as many parameters as each layer's memory, added in its place.

    `model` is the base, whose weights are those of the given model, with the parts added to the
    input of the layers that had a memory. It multiplies every parameter that it adds, where a
    memory reads a few rows: it costs far more work.

    Args:
        model: An attached model, wherever its tables are.
        seed: See `Control`.

    Attributes:
        layers: Width, parameters, and parameters of the memory, by layer.

    Raises:
        UsageError: The model has no memory.
    """

    name = "dense"

    def __init__(self, model: Any, seed: int) -> None:
        memories_of(model)
        super().__init__(base_of(model), seed)
        self._digest = _tensors_digest(self.model)
        self.hidden_size = 0
        self.layers: dict[int, dict[str, int]] = {}
        for layer_id, layer in enumerate(find_layers(model)[1]):
            memory = getattr(layer, "engram", None)
            if memory is not None:
                self.hidden_size = memory.config.hidden_size
                held = sum(memory.count_parameters().values())
                width = width_of_equal(held, self.hidden_size)
                self.layers[layer_id] = {"width": width, "memory_params": held}
        widths = {layer_id: found["width"] for layer_id, found in self.layers.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts = add_parts(self.model, self.hidden_size, widths)
        for layer_id, part in parts.items():
            self.layers[layer_id]["params"] = part.params
            self.trainable += part.parameters()
        self.restrict()

    def save(self, folder: str | Path, *, base: str | Path | None = None) -> Path:
        """Write what was trained, with a reference to the base; `load_control` reads it.

        These are the parts, and those weights of the base that require gradients.

        Args:
            folder: The folder to appear; one that this wrote is replaced.
            base: Name or folder of the base, or of an attached folder of it; where the model was
                loaded from when None.

        Returns:
            The folder.

        Raises:
            InputError: Something else is there.
        """
        with new_folder(Path(folder), own_control_files, True) as new:
            self.write_into(new, base=base)
        return Path(folder)

    def write_into(self, folder: Path, *, base: str | Path | None = None) -> None:
        """Write the files of `save` into a folder that is there.

        Args:
            folder: The folder.
            base: See `save`.
        """
        name = str(self.model.config.name_or_path if base is None else base)
        weights = {
            name: weight.detach().cpu().contiguous()
            for name, weight in self.model.named_parameters()
            if weight.requires_grad or is_memory(name)
        }
        stated = {
            "schema": _SCHEMA,
            "toolkit_version": __version__,
            "control": self.name,
            "seed": self.seed,
            "base": {
                "name": str(Path(name).resolve()) if Path(name).is_dir() else name,
                "tensors_sha256": self._digest,
            },
            "hidden_size": self.hidden_size,
            "activation": "silu",
            "layers": {str(layer_id): found for layer_id, found in self.layers.items()},
        }
        save_file(weights, folder / WEIGHTS_FILE, {"format": "pt"})
        write_json(folder / CONTROL_FILE, stated)


def add_parts(model: Any, hidden_size: int, widths: Mapping[int, int]) -> dict[int, DensePart]:
    """Add new parts to layers of a model without memories, in place.

    Args:
        model: A causal language model of transformers.
        hidden_size: Width D of its hidden states.
        widths: Width F of the part of each layer.

    Returns:
        The parts, by layer.
    """
    layers = find_layers(model)[1]
    parts = {}
    for layer_id, width in widths.items():
        layer = layers[layer_id]
        device = next(layer.parameters()).device
        # Under the name of a memory's module, so that what freezes a backbone leaves it alone.
        layer.engram = parts[layer_id] = DensePart(hidden_size, width).to(device, model.dtype)
        layer.register_forward_pre_hook(_add, with_kwargs=True)
    return parts


def _add(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Add the layer's part to its input, before the layer runs."""
    if args:
        return (layer.engram(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": layer.engram(kwargs["hidden_states"])}


@checked()
def load_control(folder: str | Path, model: str | Path | None = None, **kwargs: Any) -> Any:
    """Load a dense control. The other controls are attached folders: `engram.load` loads them.

    Args:
        folder: A folder that `Dense.save` wrote.
        model: Name or folder of its base, or of an attached folder of it; the one that the control
            names when None.
        **kwargs: What `from_pretrained` takes, such as dtype (the base's own by default).

    Returns:
        The model, in evaluation mode.

    Raises:
        MissingFileError: The folder is not such a control, or there is no such base.
        CorruptFileError: A file of it is damaged.
        MismatchError: It was trained on another base.
    """
    folder = Path(folder)
    stated = read_json(folder / CONTROL_FILE, _SHAPE)
    name = stated["base"]["name"] if model is None else model
    base = _load_base(name, kwargs)
    if _tensors_digest(base) != stated["base"]["tensors_sha256"]:
        raise MismatchError(
            f"{folder} was trained on {stated['base']['name']}; {name} has other tensors.",
            "Give the base that it was trained on.",
            folder=str(folder),
            model=str(name),
        )
    widths = {int(layer_id): found["width"] for layer_id, found in stated["layers"].items()}
    add_parts(base, stated["hidden_size"], widths)
    named = dict(base.named_parameters())
    try:
        with safe_open(folder / WEIGHTS_FILE, "pt") as file, torch.no_grad():
            missing = {weight for weight in named if is_memory(weight)} - set(file.keys())
            for weight in file.keys():  # noqa: SIM118 - not a mapping
                named[weight].copy_(file.get_tensor(weight))
    except Exception as error:  # safetensors and torch raise whatever a damaged file leads to
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    if missing:
        raise _damaged(folder, f"it has no {min(missing)}")
    return base.eval()


def _damaged(folder: Path, what: str) -> CorruptFileError:
    return CorruptFileError(
        f"{folder / WEIGHTS_FILE} is not what the control needs: {what.rstrip('.')}.",
        "Train the control again, or copy its folder again.",
        path=str(folder / WEIGHTS_FILE),
    )


def _load_base(name: str | Path, kwargs: dict[str, Any]) -> Any:
    """Load a base, or that of an attached folder."""
    from transformers import AutoModelForCausalLM

    opened = open_checkpoint(name, short_names=True)
    if opened.stated is not None:
        return base_of(load_opened(opened, tables="disk", **kwargs))
    with of_the_base(Path(name), "load"):
        return AutoModelForCausalLM.from_pretrained(name, **{"dtype": "auto", **kwargs})


def _tensors_digest(model: nn.Module) -> str:
    """sha256 over names and shapes of a model's parameters, whatever their dtype is now."""
    shapes = sorted((name, list(it.shape)) for name, it in model.named_parameters())
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()


def own_control_files(folder: Path) -> set[str] | None:
    """Name what training a dense control wrote into a folder; None when it is not one."""
    if not (folder / CONTROL_FILE).is_file():
        return None
    return {CONTROL_FILE, WEIGHTS_FILE, CARD_FILE, *TRAINING_FILES}
