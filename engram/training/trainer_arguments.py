"""Makes transformers' `TrainingArguments` of a run's options and of what users add to them."""

import os
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
# Reasons for which a run does not take others.
_ROWS = "rows are read by number, in an order that follows from --seed"
_EVALUATIONS = "evaluations are the run's own; see --evaluate-every and --held-out"
_CHECKPOINTS = "checkpoints are the run's own"
_OPTIMIZER = "the optimiser is MemoryOptimizer; see --table-optimizer"
_PUSH = "push the result: engram.push_to_hub"
_SHARDING = "engram train divides the tables and leaves the rest to DDP"
# Those that a run cannot do, and the reason.
_NOT_HERE = {
    "fp16": "gradients of tables are not scaled; use --bf16",
    "deepspeed": "its optimisers know no rows; use torchrun, which divides the tables",
    "fsdp": _SHARDING,
    "optim": _OPTIMIZER,
    "load_best_model_at_end": _CHECKPOINTS,
    "push_to_hub": _PUSH,
    "do_train": "it always trains",
    "do_eval": "it always evaluates",
    "do_predict": "it has nothing to predict",
    "auto_find_batch_size": "the order of the data depends on --batch",
    "data_seed": _ROWS,
    "train_sampling_strategy": _ROWS,
    "length_column_name": _ROWS,
    "remove_unused_columns": _ROWS,
    "ignore_data_skip": _ROWS,
    "label_names": _ROWS,
    "per_device_eval_batch_size": _EVALUATIONS,
    "prediction_loss_only": _EVALUATIONS,
    "include_for_metrics": _EVALUATIONS,
    "batch_eval_metrics": _EVALUATIONS,
    "bf16_full_eval": _EVALUATIONS,
    "fp16_full_eval": _EVALUATIONS,
    "metric_for_best_model": _CHECKPOINTS,
    "greater_is_better": _CHECKPOINTS,
    "enable_jit_checkpoint": _CHECKPOINTS,
    "restore_callback_states_from_checkpoint": _CHECKPOINTS,
    "parallelism_config": _SHARDING,
    "disable_tqdm": "the bar is engram train's own",
    "use_cache": "training needs no cache",
}
# Beginnings of the names of others, which would have no effect.
_NONE_OF: dict[str, str] = {
    "adam_": _OPTIMIZER,
    "optim_": _OPTIMIZER,
    "dataloader_": _ROWS,
    "eval_": _EVALUATIONS,
    "save_": _CHECKPOINTS,
    "hub_": _PUSH,
    "fsdp_": _SHARDING,
}
# Variables by which accelerate launch asks for what a run cannot do.
_LAUNCHED = {
    "ACCELERATE_USE_FSDP": "fsdp",
    "ACCELERATE_USE_DEEPSPEED": "deepspeed",
    "ACCELERATE_USE_MEGATRON_LM": "megatron_lm",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config",
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
        UsageError: An added argument is unknown, has an option of its own, or cannot be used here;
            or accelerate was started with FSDP or the like.
        MissingPackageError: A logger is not installed.
    """
    check_names(options.trainer)
    _refuse_launch()
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


def _refuse_launch() -> None:
    """Refuse to start where accelerate was told to shard the model in a way of its own."""
    for variable, name in _LAUNCHED.items():
        if os.environ.get(variable, "").lower() in ("true", "1", "yes"):
            raise UsageError(
                f"accelerate was told to use {name}, which cannot be used here: "
                f"{_NOT_HERE.get(name, _SHARDING)}.",
                "Start with torchrun, or choose plain processes in accelerate config.",
                variable=variable,
            )


def _demand_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that are unknown or not installed, before a run begins."""
    compat.check_loggers()
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
        beginnings = (reason for start, reason in _NONE_OF.items() if name.startswith(start))
        if name in known and (reason := _NOT_HERE.get(name) or next(beginnings, None)):
            raise UsageError(f"{name} cannot be used here: {reason}.")
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
