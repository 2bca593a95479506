"""`TrainedModel`: a model with what of it learns: a memory, a control, adapters, or all of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.load_checkpoint import load
from engram.errors import MissingPackageError, UsageError
from engram.hf import compat
from engram.hf.file_tables import copy_tables, trainable_on_disk
from engram.hf.wiring import find_layers
from engram.storage.row_journal import Journal, recover
from engram.tensor_names import is_memory
from engram.training.controls import Control, apply_control, memories_of
from engram.training.learned_positions import demand_positions
from engram.training.live_memory import LiveMemory
from engram.training.memory_optimizer import freeze_backbone
from engram.training.run_folder import RunFolder
from engram.training.train_options import TrainOptions


@dataclass
class TrainedModel:
    """A model that is ready to be trained.

    Attributes:
        model: The model, wrapped by PEFT where adapters are trained beside the memory.
        memory: Its memory; None of a control without one.
        changes_base: Whether weights of the base learn, too.
        control: The control that replaces the memory; None without one.
        journal: Journal of tables that are trained in files; None of tables in memory.
        widened: Weights of the memory that are in float32 while they learn, with their own dtypes.
    """

    model: Any
    memory: LiveMemory | None
    changes_base: bool
    control: Control | None = None
    journal: Journal | None = None
    widened: list[tuple[nn.Parameter, torch.dtype]] = field(default_factory=list)

    def close(self) -> None:
        """Close the files of tables that are trained in them."""
        if self.journal is not None:
            self.journal.close()

    def finish(self) -> None:
        """Have the model give the outputs of the saved one: merge adapters, round the memory."""
        if self.control is not None:
            self.control.finish()
        if hasattr(self.model, "merge_and_unload"):
            self.model = self.model.merge_and_unload()
        if self.memory is not None and not self.changes_base:
            self.memory.round()
        for weight, dtype in self.widened:
            weight.data = weight.data.to(dtype)
        self.model.eval()


def prepare_model(
    opened: Checkpoint,
    folder: Path,
    options: TrainOptions,
    device: torch.device,
    place: RunFolder,
    *,
    trust_remote_code: bool = False,
) -> TrainedModel:
    """Load an attached folder for training.

    Weights that learn are in float32, whatever they are stored in, except for tables: rows in
    bfloat16 are rounded stochastically.

    Args:
        opened: The folder.
        folder: Its path.
        options: What is trained.
        device: Device to train on.
        place: The run's folder, where tables are copied to that are trained in files.
        trust_remote_code: Whether code of its base may run.

    Raises:
        UsageError: Windows are longer than the model can read, or a quantised base is to learn.
    """
    stored: dict[str, Any] = {"dtype": torch.float32} if options.train == "all" else {}
    home: Literal["ram", "disk"] = "disk" if options.tables == "disk" else "ram"
    model: Any = load(folder, trust_remote_code=trust_remote_code, tables=home, **stored)
    demand_positions(model, options.context)
    if compat.is_quantised(model):
        _train_beside_quantised(model, folder, options)
    if options.tables == "host":
        for module in memories_of(model):
            module.multi_head_embedding.keep_on_host()
    model.to(device)
    journal = None
    if options.tables == "disk":
        with place.first_does() as is_first:
            if is_first:
                copy_tables(model, place.tables)
                recover(place.tables)
        journal = trainable_on_disk(model, place.tables, place.rank, place.ranks)
    if options.control is not None:
        control = apply_control(model, options.control, options.seed)
        control.model.requires_grad_(options.train == "all")
        control.restrict()
        widened = _widen(control.model)
        if control.model is not model:
            return TrainedModel(control.model, None, options.train == "all", control)
        memory = LiveMemory(model, opened)
        return TrainedModel(model, memory, options.train == "all", control, widened=widened)
    memory = LiveMemory(model, opened)
    if options.train == "all":
        model.requires_grad_(True)
    else:
        freeze_backbone(model)
    if options.train == "lora":
        model = _with_adapters(model, options.lora_rank, options.seed)
    widened = _widen(model)
    return TrainedModel(model, memory, options.train != "memory", journal=journal, widened=widened)


def _train_beside_quantised(model: Any, folder: Path, options: TrainOptions) -> None:
    """Let a memory be trained beside a quantised base.

    Raises:
        UsageError: The base is to be trained, too.
    """
    if options.train != "memory":
        raise UsageError(
            f"The base of {folder} is quantised: its own weights cannot be trained.",
            "Leave --train out, or attach to the base as it was before.",
        )
    compat.let_gradients_pass(model)


def _widen(model: nn.Module) -> list[tuple[nn.Parameter, torch.dtype]]:
    """Cast 16-bit weights that learn to float32, but for tables.

    Returns:
        The memory's among them, with the dtypes that they had.
    """
    widened = []
    for name, weight in model.named_parameters():
        if weight.requires_grad and "multi_head_embedding" not in name and weight.itemsize < 4:
            if is_memory(name):
                widened.append((weight, weight.dtype))
            weight.data = weight.data.float()
    return widened


def _with_adapters(model: Any, rank: int, seed: int) -> Any:
    """Add low-rank adapters to every projection of the base, and leave the memory trainable."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingPackageError("peft", "train", "Training low-rank adapters") from None
    path = find_layers(model)[2]
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(f"{path}.") and not is_memory(name)
    ]
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    with warnings.catch_warnings(), torch.random.fork_rng():
        torch.manual_seed(seed)
        # PEFT reads an attribute that transformers has renamed.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
        wrapped = get_peft_model(model, settings)
    for name, weight in wrapped.named_parameters():
        if is_memory(name):
            weight.requires_grad_(True)
    return wrapped
