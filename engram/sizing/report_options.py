"""`ReportOptions`: where the parts of a memory are, and how they are used."""

from dataclasses import dataclass
from typing import Literal, get_args

from engram.arguments import check_fields

Mode = Literal["inference", "training"]
Optimizer = Literal["adam", "momentum", "sgd", "rowwise-adagrad", "sparse-adam"]
Place = Literal["gpu", "cpu", "disk"]
PLACES: tuple[Place, ...] = get_args(Place)
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of `engram.report`; those of the command ``engram report`` have the same names.

    Attributes:
        mode: Weights alone, or with gradients and optimiser state.
        optimizer: Optimiser in training; the last two are for tables, with adam for the rest.
        tables: Place of the tables.
        tp: Devices that share the rows of each table.
        device_memory: Bytes of memory of one device, to say whether it fits.
        host_memory: Bytes of memory of the host of all devices, to say whether it fits.
        tokens_per_second: Speed to count reads and bytes a second for.
        dtype: dtype of the tables; as they are stored when None.
        tokens_per_step: Tokens of a training step on a device, for sparse gradients.
        freeze_base: In training: only the memory is trained.

    Raises:
        UsageError: An option is none of its choices, of another type, or too small.
    """

    mode: Mode = "inference"
    optimizer: Optimizer = "adam"
    tables: Place = "gpu"
    tp: int = 1
    device_memory: int | None = None
    host_memory: int | None = None
    tokens_per_second: int | None = None
    dtype: str | None = None
    tokens_per_step: int = 8192
    freeze_base: bool = False

    def __post_init__(self) -> None:
        check_fields(
            self,
            tp=1,
            device_memory=0,
            host_memory=0,
            tokens_per_second=1,
            tokens_per_step=1,
        )
