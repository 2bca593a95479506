"""Makes transformers' `TrainingArguments` of a run's options and of what users add to them."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import torch
from transformers import TrainingArguments

from engram.errors import MissingPackageError, UsageError
from engram.hf import compat
from engram.training.train_options import TrainOptions

# Arguments that are options of the toolkit, by their names here.
_OURS = {
    "max_steps": "--steps",
    "num_train_epochs": "--steps or --tokens",
    "per_device_train_batch_size": "--batch",
    "gradient_accumulation_steps": "--accumulate",
    "learning_rate": "--lr",
    "weight_decay": "--weight-decay",
    "max_grad_norm": "--max-grad-norm",
    "warmup_steps": "--warmup",
    "warmup_ratio": "--warmup",
    "lr_scheduler_type": "--schedule",
    "seed": "--seed",
    "bf16": "--bf16",
    "output_dir": "-o",
    "save_strategy": "--save-every",
    "save_steps": "--save-every",
    "eval_strategy": "--evaluate-every",
    "eval_steps": "--evaluate-every",
    "resume_from_checkpoint": "--resume",
}
# Those that a run cannot do, and the reason.
_NOT_HERE = {
    "fp16": "gradients of tables are not scaled; use --bf16",
    "deepspeed": "its optimisers know no rows; use torchrun, which divides the tables",
    "fsdp": "engram train divides the tables and leaves the rest to DDP",
    "optim": "the optimiser is MemoryOptimizer; see --table-optimizer",
    "load_best_model_at_end": "checkpoints are the run's own",
    "push_to_hub": "push the result: engram.push_to_hub",
    "do_train": "it always trains",
    "do_eval": "it always evaluates",
    "do_predict": "it has nothing to predict",
    "auto_find_batch_size": "the order of the data depends on --batch",
}
# Types of arguments whose values are checked here, and what YAML may have for them.
_KINDS: dict[Any, tuple[type, ...]] = {
    **{kind: (kind,) for kind in (bool, dict, list, str, NoneType)},
    **{int: (int,), float: (int, float)},
}


def trainer_arguments(options: TrainOptions, folder: Path, steps: int) -> TrainingArguments:
    """Return the arguments of the trainer of a run.

    Args:
        options: Those of the run.
        folder: Folder of its checkpoints, where loggers may write too.
        steps: Steps in all.

    Raises:
        UsageError: An added argument is unknown, has an option of its own, or cannot be used here.
        MissingPackageError: A logger is not installed.
    """
    check_names(options.trainer)
    known: dict[str, Any] = {
        "report_to": "none",
        "logging_steps": max(1, min(10, steps // 10)),
        "remove_unused_columns": False,
        "use_cpu": not torch.accelerator.is_available(),
        # Every part of a memory is used in every step; of a whole mixture, not every expert.
        "ddp_find_unused_parameters": options.train == "all",
    }
    own = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": options.batch,
        "gradient_accumulation_steps": options.accumulate,
        "learning_rate": options.lr,
        "weight_decay": options.weight_decay,
        "max_grad_norm": 0.0,  # the optimiser clips
        "warmup_steps": round(options.warmup * steps),
        "lr_scheduler_type": options.schedule
        if options.schedule != "constant"
        else "constant_with_warmup",
        "seed": options.seed,
        "bf16": options.bf16,
        "save_strategy": "no",
        "eval_strategy": "no",
        "disable_tqdm": True,
    }
    try:
        with warnings.catch_warnings():
            # Older releases know some arguments by other names alone.
            warnings.filterwarnings("ignore", ".*is deprecated.*", FutureWarning)
            arguments = TrainingArguments(**{**known, **options.trainer, **own})
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"transformers refuses the trainer's arguments: {error}.",
            "See transformers.TrainingArguments.",
        ) from None
    _demand_loggers(arguments.report_to)
    return arguments


def _demand_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that are unknown or not installed, before a run begins."""
    try:
        compat.find_loggers(list(names))
    except ValueError as error:
        said = str(error).rstrip(".")
        raise UsageError(f"report_to names an unknown logger: {said}.") from None
    for name in names:
        if name not in compat.installed_loggers():
            raise MissingPackageError(name, None, f"Logging to {name}")


def check_names(given: Mapping[str, Any]) -> None:
    """Refuse arguments of the trainer that it does not know, or that are not for users here.

    Raises:
        UsageError: There is one.
    """
    known = {field.name: field.type for field in fields(TrainingArguments) if field.init}
    for name, value in given.items():
        if name in _OURS:
            raise UsageError(f"{name} has an option of its own.", f"Use {_OURS[name]}.")
        if name in _NOT_HERE:
            raise UsageError(f"{name} cannot be used here: {_NOT_HERE[name]}.")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise UsageError(
                f"unknown argument of the trainer: {name!r}.",
                f"Did you mean {near[0]}?" if near else "See transformers.TrainingArguments.",
            )
        kinds = set(get_args(known[name]) or (known[name],))
        if kinds <= _KINDS.keys() and not isinstance(value, tuple(_KINDS[kind] for kind in kinds)):
            words = " or ".join(sorted(kind.__name__ for kind in kinds - {NoneType}))
            raise UsageError(f"{name} must be {words}, got {value!r}.", argument=name)
