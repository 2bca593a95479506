"""`TrainOptions`: what is trained, on how much, and how."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from engram.arguments import check_fields
from engram.errors import UsageError
from engram.training.control_names import ControlName

Trained = Literal["memory", "lora", "all"]
TableOptimizer = Literal["rowwise-adagrad", "rowwise-rmsprop", "sparse-adam", "momentum"]
Schedule = Literal["cosine", "linear", "constant"]
TABLE_OPTIMIZERS: tuple[TableOptimizer, ...] = get_args(TableOptimizer)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `engram.training.train`; those of the command ``engram train`` are the same.

    At most one of steps, tokens and minutes is given; without any, the text is read once.

    Attributes:
        train: The memory beside a frozen base; the memory and low-rank adapters of the base, which
            are merged into it at the end; or all weights.
        control: Train a control in the memory's stead: one with frozen random tables, one whose
            rows are all the same, or an MLP of as many parameters.
        steps: Steps of the optimiser.
        tokens: Tokens to train on.
        minutes: Minutes to train for, about: as many steps as a measurement says.
        context: Tokens of a window.
        batch: Windows of a step, on each process and for each accumulated micro-batch.
        accumulate: Micro-batches of a step.
        lr: Learning rate of everything but tables.
        table_lr: Learning rate of tables.
        table_optimizer: Rule of tables, see `MemoryOptimizer`.
        weight_decay: Decay of matrices that are not tables.
        max_grad_norm: Norm that all gradients are clipped to; 0 for no clipping.
        warmup: Share of the steps in which learning rates rise.
        schedule: Course of the learning rates after it.
        held_out: Share of the documents that are held out.
        held_out_tokens: Tokens of them, at most, that are evaluated while training; the end
            evaluates all.
        evaluate_every: Steps between evaluations; 0 for none. When None a tenth of the run, or more
            steps, so that evaluations take a fifth of its time at most.
        save_every: Steps between checkpoints; a tenth of the run when None, 0 for none but at an
            interrupt and at the end.
        keep_checkpoints: Whether checkpoints stay when the run has ended.
        bf16: Compute in bfloat16 where it is safe (autocast); weights stay as they are.
        lora_rank: Rank of the adapters of ``train="lora"``.
        tables: Place of the tables: in memory with the model, in host memory while the model is on
            a GPU, or in files, which may be larger than memory.
        seed: Seed of the order of documents, of dropout, and of a control.
        held_out_seed: Seed of the held-out split: runs with other seeds keep the same one.
        trainer: Other arguments of transformers' `TrainingArguments`.

    Raises:
        UsageError: Options exclude each other, or have a value that is not valid.
    """

    train: Trained = "memory"
    control: ControlName | None = None
    steps: int | None = None
    tokens: int | None = None
    minutes: float | None = None
    context: int = 512
    batch: int = 4
    accumulate: int = 1
    lr: float = 2e-3
    table_lr: float = 0.1
    table_optimizer: TableOptimizer = "rowwise-adagrad"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    warmup: float = 0.05
    schedule: Schedule = "cosine"
    held_out: float = 0.05
    held_out_tokens: int = 16_384
    evaluate_every: int | None = None
    save_every: int | None = None
    keep_checkpoints: bool = False
    bf16: bool = False
    lora_rank: int = 16
    tables: Literal["ram", "host", "disk"] = "ram"
    seed: int = 0
    held_out_seed: int = 0
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least_one = ("steps", "tokens", "batch", "accumulate", "lora_rank")
        at_least_zero = ("held_out_tokens", "evaluate_every", "save_every", "seed", "held_out_seed")
        least = {**dict.fromkeys(at_least_one, 1), **dict.fromkeys(at_least_zero, 0)}
        check_fields(self, context=2, **least)
        lengths = [name for name in ("steps", "tokens", "minutes") if getattr(self, name)]
        if len(lengths) > 1:
            raise UsageError(
                f"--{' and --'.join(lengths)} exclude each other.", "Give one of them."
            )
        self._check("0 to 1", lambda it: 0 <= it <= 1, "warmup")
        self._check("above 0 and at most 0.5", lambda it: 0 < it <= 0.5, "held_out")
        rates = ("lr", "table_lr", "weight_decay", "max_grad_norm")
        self._check("a number >= 0", lambda it: 0 <= it < float("inf"), *rates)
        # numpy's seeds, which Trainer sets, have 32 bits.
        self._check("below 2^32", lambda it: it < 2**32, "seed")
        self._check("a number > 0", lambda it: 0 < it < float("inf"), "minutes")
        if self.control is not None and self.train == "lora":
            raise UsageError(
                "A control is trained beside a frozen base, or with all of it.",
                "Give --train memory or --train all.",
            )
        if self.control is not None and self.tables == "disk":
            raise UsageError("A control has its tables in memory.", "Leave --tables out.")

    def _check(self, demand: str, holds: Callable[[float], bool], *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise UsageError(f"{name} must be {demand}, got {value}.", argument=name)

    def to_dict(self) -> dict[str, Any]:
        """Return the options for JSON."""
        return {**asdict(self), "trainer": dict(self.trainer)}
