"""Options of `size` and `report` that say how a model runs, and on what machine."""

from typing import Annotated, Any

import typer

from engram.sizing.optimizers import Optimizer
from engram.sizing.run_options import Mode, Tables, Train
from engram_cli.options import TableDtypeOption
from engram_cli.values import read_bytes, read_count


def _size(text: str) -> Any:
    return typer.Option(metavar="SIZE", parser=read_bytes, help=text)


def _count(text: str) -> Any:
    return typer.Option(metavar="COUNT", parser=read_count, help=text)


# The fields of `RunOptions`.
RUN = {
    "mode": Annotated[
        Mode, typer.Option(help="Inference, or training with gradients and optimizer state.")
    ],
    "train": Annotated[
        Train,
        typer.Option(
            help="In training: the memory beside a frozen base, all weights, or the memory and "
            "low-rank adapters of the base."
        ),
    ],
    "optimizer": Annotated[
        Optimizer,
        typer.Option(
            metavar="NAME",
            help="In training, of all weights: adam, momentum or sgd; of the rows that a step "
            "touches, with adam for the rest: rowwise-adagrad, rowwise-rmsprop, sparse-adam or "
            "sparse-momentum.",
        ),
    ],
    "tables": Annotated[
        Tables,
        typer.Option(
            help="Where the tables are. auto: of the places whose size is given, where they fit; "
            "else with what computes."
        ),
    ],
    "tp": Annotated[
        int,
        typer.Option(
            "--tp", "--gpus", min=0, help="GPUs that share the rows of each table; 0: none."
        ),
    ],
    "device_memory": Annotated[int | None, _size("Memory of one GPU, as 24GB.")],
    "host_memory": Annotated[int | None, _size("Memory of the host of all GPUs, as 64GB.")],
    "disk": Annotated[
        int | None,
        _size("Disk that tables may be read from, or trained on by optimizers of rows, as 500GB."),
    ],
    "disk_iops": Annotated[int | None, _count("Its random reads a second, as 500K.")],
    "save_every": Annotated[
        int | None,
        _count(
            "Steps between checkpoints of tables trained on disk: rows changed since wait in "
            "shadow files. Default: as many as change them all."
        ),
    ],
    "tokens_per_second": Annotated[
        int | None,
        _count("Speed: the reads it takes, and whether the disk does them."),
    ],
    "context": Annotated[
        int | None,
        _count("Tokens of a sequence. Default: the model's, at most 4,096."),
    ],
    "batch": Annotated[
        int, typer.Option(min=1, help="Sequences at a time; all GPUs work on the same.")
    ],
    "base_bytes": Annotated[
        int | None,
        _size("Bytes of the base, where it is unknown, or not stored as its config says."),
    ],
    "dtype": TableDtypeOption,
}
