"""`RunOptions`: how a model with a memory is run, and the machine that it is run on."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from engram.arguments import check_fields
from engram.config.table_dtype import INFERENCE_DTYPES
from engram.errors import UsageError
from engram.sizing.optimizers import ROW_STATES, Optimizer
from engram.storage.dtypes import dtype_name

Mode = Literal["inference", "training"]
Train = Literal["memory", "all", "lora"]
Place = Literal["gpu", "cpu", "disk"]
Tables = Literal["auto", "gpu", "cpu", "disk"]
PLACES: tuple[Place, ...] = get_args(Place)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options that `engram.size` and `engram.report` share; those of the commands are the same.

    Attributes:
        LEAST: The least values of numbers, by name.
        mode: Weights alone, or with gradients and optimiser state.
        train: In training: the memory alone, all weights, or the memory and low-rank adapters of
            the base.
        optimizer: Optimiser in training: adam, momentum and sgd of all weights; the others of the
            rows that a step touches, with adam for the rest.
        tables: Place of the tables; auto takes the first that they fit: gpu, cpu, disk.
        tp: GPUs that share the rows of each table, each with the memory of `device_memory`; 0 for
            a machine without any, whose host holds everything.
        device_memory: Bytes of memory of one device.
        host_memory: Bytes of memory of the host of all devices.
        disk: Bytes of the disk that tables may lie on, in training with their optimiser state.
        disk_iops: Random reads of a page that the disk does in a second.
        save_every: Steps between checkpoints of tables that are trained on disk, which limit how
            many rows wait in shadow files; all rows may when None.
        tokens_per_second: Speed to count reads for; with `disk_iops`, whether the disk keeps up.
        context: Tokens of a sequence; the model's positions, 4,096 at most, when None.
        batch: Sequences at a time; all GPUs work on the same.
        base_bytes: Bytes of the base's weights, where it is not known, or not stored as its config
            says.
        dtype: dtype of the tables; as they are stored, or the model's own, when None.
    """

    LEAST: ClassVar[dict[str, int]] = {
        **dict.fromkeys(("tp", "device_memory", "host_memory", "disk", "base_bytes"), 0),
        **dict.fromkeys(("batch", "context", "tokens_per_second", "disk_iops", "save_every"), 1),
    }

    mode: Mode = "inference"
    train: Train = "all"
    optimizer: Optimizer = "adam"
    tables: Tables = "auto"
    tp: int = 1
    device_memory: int | None = None
    host_memory: int | None = None
    disk: int | None = None
    disk_iops: int | None = None
    save_every: int | None = None
    tokens_per_second: int | None = None
    context: int | None = None
    batch: int = 1
    base_bytes: int | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, **self.LEAST)
        if self.tables == "disk" and not self._may_be_on_disk:
            raise UsageError(
                f"Tables on disk cannot be trained with {self.optimizer}, which changes every row "
                "at every step.",
                f"Use --optimizer {', '.join(ROW_STATES)}; or --tables gpu or cpu.",
            )
        of_training = (self.train, self.optimizer, self.save_every)
        if self.mode == "inference" and of_training != ("all", "adam", None):
            raise UsageError(
                "--train, --optimizer and --save-every are of training; the mode is inference.",
                "Give --mode training, or leave them out.",
            )
        if self.mode == "training" and self.dtype is not None:
            name = dtype_name(self.dtype)
            if name in INFERENCE_DTYPES:
                raise UsageError(
                    f"Tables in {name} cannot be trained.",
                    "Plan them in bfloat16; engram convert casts them afterwards.",
                )
        if self.base_bytes is not None and self.mode == "training" and self.train == "all":
            raise UsageError(
                "Training a base takes more than its weights, and --base-bytes states those alone.",
                "Use --train memory, which leaves the base frozen; or --model in its stead.",
            )
        if not self.tp and (self.tables == "gpu" or self.device_memory is not None):
            raise UsageError(
                "A machine without GPUs has no device memory.",
                "Leave --device-memory and --tables gpu out, or give --gpus 1.",
            )

    @property
    def has_machine(self) -> bool:
        """Whether anything is given of the machine that a memory may be too large for."""
        known = (*self.sizes_of_places.values(), self.disk_iops)
        return any(size is not None for size in known)

    @property
    def sizes_of_places(self) -> dict[Place, int | None]:
        """Bytes that there are in each place, the fastest first; None where nobody said."""
        return {"gpu": self.device_memory, "cpu": self.host_memory, "disk": self.disk}

    @property
    def table_places(self) -> list[Place]:
        """Places that tables can be in on such a machine, in such a use, the fastest first."""
        possible = {"gpu": self.tp > 0, "cpu": True, "disk": self._may_be_on_disk}
        return [place for place in PLACES if possible[place]]

    @property
    def _may_be_on_disk(self) -> bool:
        """Whether nothing changes every row of a table at every step."""
        return self.mode == "inference" or self.optimizer in ROW_STATES

    @property
    def homes(self) -> list[Place]:
        """Places that tables may be in, the fastest first.

        The one that was asked for; or all whose size is given; or the memory of what computes.
        """
        if self.tables != "auto":
            return [self.tables]
        sizes = self.sizes_of_places
        there = [place for place in self.table_places if sizes[place] is not None]
        return there or ["gpu" if self.tp else "cpu"]


@dataclass(frozen=True, kw_only=True)
class ReportOptions(RunOptions):
    """Options of `engram.report`: those of `RunOptions` alone."""
