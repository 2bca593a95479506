"""Works out what 1T tokens and tables of 400M rows need, from the rates that `scale.py` measured.

Every line has its formula; the letters are those of `symbols`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scale_line import Point, line_of, of_series, seconds_of
from scale_memory import ROW_BYTES

TOKENS, ROWS, LAYERS, HEADS = 10**12, 4 * 10**8, 2, 16
SAMPLE_TOKENS = 10**10
# A piece that a task of Ray counts, and the bytes of a row's state in training (row-wise Adagrad).
PIECE_TOKENS, STATE_BYTES = 2**22, 4
# Bytes a second of a network of 10 Gbit/s.
NETWORK = 1.25e9
_LARGEST = 3


@dataclass(frozen=True)
class Machines:
    """Equal machines that share the work.

    Attributes:
        name: Their name in the table.
        cores: Cores of each.
        count: Their number.
    """

    name: str
    cores: int
    count: int

    @property
    def all_cores(self) -> int:
        """Cores of all of them."""
        return self.cores * self.count


@dataclass(frozen=True)
class Rates:
    """What was measured, per core where the work is divided among cores.

    Attributes:
        cores: Cores of the machine that was measured.
        token_bytes: b, bytes of text for each token.
        build: s_b, core-seconds of ``corpus build`` for each byte of text.
        count: s_c, seconds of ``hash CORPUS --stats`` for each token, when heads are full.
        count_open: s_o, the same while heads of large tables are not.
        ray: s_r, core-seconds of ``hash TEXT --engine ray`` for each byte of text.
        kernel: s_h, core-seconds of the hash for each token and layer.
        step: s_t, core-seconds of a training step for each look-up.
        write: s_a, seconds of ``attach`` for each byte that it writes.
        ram: s_m, core-seconds of a look-up in memory.
        disk: s_d, seconds of a look-up on a disk.
        build_bytes: Memory of ``corpus build`` for each core.
        count_bytes: Memory of ``hash --stats`` at the longest text.
        attach_bytes: Memory of ``attach`` at the largest table.
    """

    cores: int
    token_bytes: float
    build: float
    count: float
    count_open: float
    ray: float
    kernel: float
    step: float
    write: float
    ram: float
    disk: float
    build_bytes: float
    count_bytes: float
    attach_bytes: float


def rates_of(points: list[Point], cores: int) -> Rates:
    """Return the rates at the largest sizes that were measured.

    Args:
        points: The measurements.
        cores: Cores that they were made with.
    """

    def last(name: str) -> Point:
        found = of_series(points, name)
        if not found:
            raise SystemExit(f"nothing of {name} was measured: benchmarks/scale.py --only {name}")
        return found[-1]

    def slope(name: str) -> float:
        last(name)
        return line_of(of_series(points, name)[-_LARGEST:]).slope

    built, counted, table = last("build"), last("hash-corpus"), last("attach")
    attached = [{**it, "bytes": it["written_bytes"]} for it in of_series(points, "attach")]
    bytes_a_token = built["bytes"] / built["tokens"]
    kernel, step, ram, disk = (last(name) for name in ("kernel", "step", "ram", "disk"))
    return Rates(
        cores=cores,
        token_bytes=bytes_a_token,
        build=slope("build") * cores,
        count=slope("hash-corpus") * bytes_a_token,
        count_open=slope("hash-open") * bytes_a_token,
        ray=slope("hash-ray") * cores,
        kernel=seconds_of(kernel) / kernel["tokens"] * cores,
        step=seconds_of(step) / step["look_ups"] * cores,
        write=line_of(attached[-_LARGEST:]).slope,
        ram=seconds_of(ram) / ram["look_ups"] * cores,
        disk=seconds_of(disk) / disk["look_ups"],
        build_bytes=built["held_bytes"] / cores,
        count_bytes=counted["held_bytes"],
        attach_bytes=table["held_bytes"],
    )


def symbols(rates: Rates) -> str:
    """Return the table of the letters in the formulas."""
    rows = [
        ("T", "tokens of the corpus", "10^12"),
        ("b", "bytes of text a token", f"{rates.token_bytes:.2f}"),
        ("R", "rows of a table, one a layer", "4 x 10^8"),
        ("L", "layers with a table", str(LAYERS)),
        ("H", "rows that a token reads of a table: 2 orders, 8 heads", str(HEADS)),
        ("w", "bytes of a row: 64 values of bfloat16", str(ROW_BYTES)),
        ("C", "cores of all machines", "heads of the tables"),
        ("M", "machines", "heads of the tables"),
        ("n", "bytes a second of a machine's network (assumed)", "1.25 GB/s (10 Gbit/s)"),
        ("s_b", "`corpus build`: core-time a byte of text", _each(rates.build)),
        ("s_c", "`hash CORPUS --stats`: time a token, heads full", _each(rates.count)),
        ("s_o", "the same while heads of such tables are not full", _each(rates.count_open)),
        ("s_r", "`hash TEXT --stats --engine ray`: core-time a byte of text", _each(rates.ray)),
        ("s_h", "the hash: core-time a token and layer", _each(rates.kernel)),
        ("s_t", "training: core-time a look-up with its change, in memory", _each(rates.step)),
        ("s_m", "look-up in memory: core-time a row", _each(rates.ram)),
        ("s_d", "look-up on a cold disk: time a row", _each(rates.disk)),
        ("s_a", "`attach`: time a byte written", _each(rates.write)),
    ]
    lines = [f"| `{name}` | {meaning} | {value} |" for name, meaning, value in rows]
    return "\n".join(["| letter | is | here |", "|---|---|---|", *lines])


def _each(seconds: float) -> str:
    return f"{1e9 * seconds:.3g} ns" if seconds < 1e-6 else f"{1e6 * seconds:.3g} µs"


# What is needed: words, formula, and the number for some machines; None where it is not possible.
Need = tuple[str, str, Callable[[Rates, Machines], float | None]]


def _on_ray(rates: Rates, on: Machines) -> float | None:
    if on.count == 1:
        return None
    tasks = TOKENS * rates.token_bytes * rates.ray / on.all_cores
    return max(tasks, TOKENS / PIECE_TOKENS * LAYERS * ROWS / 8 / NETWORK)


def _exchange(rates: Rates, on: Machines) -> float | None:
    if on.count == 1:
        return None
    remote = (on.count - 1) / on.count
    return TOKENS * LAYERS * HEADS * 2 * ROW_BYTES * remote / (on.count * NETWORK)


HOURS: tuple[Need, ...] = (
    (
        "tokenise the corpus (`corpus build`)",
        "T b s_b / C",
        lambda r, on: TOKENS * r.token_bytes * r.build / on.all_cores,
    ),
    (
        "count all of it in one pass (`hash --stats`)",
        "T s_c",
        lambda r, on: TOKENS * r.count if on.count == 1 else None,
    ),
    (
        "count all of it on Ray: tasks, or bitmaps of rows on their way to the head",
        "max(T b s_r / C, T / 2^22 x L R / 8 / n)",
        _on_ray,
    ),
    (
        "count 10^10 tokens of it, and predict the rest (`--predict 1T`)",
        "10^10 s_o",
        lambda r, on: SAMPLE_TOKENS * r.count_open if on.count == 1 else None,
    ),
    (
        "write the tables (`attach`)",
        "L R w s_a",
        lambda r, on: LAYERS * ROWS * ROW_BYTES * r.write if on.count == 1 else None,
    ),
    (
        "hash all of it while training",
        "T L s_h / C",
        lambda r, on: TOKENS * LAYERS * r.kernel / on.all_cores,
    ),
    (
        "look rows up and change them, in training",
        "T L H s_t / C",
        lambda r, on: TOKENS * LAYERS * HEADS * r.step / on.all_cores,
    ),
    (
        "rows and gradients between machines that share the tables",
        "T L H 2 w (M - 1) / M / (M n)",
        _exchange,
    ),
)
BYTES: tuple[Need, ...] = (
    (
        "memory of `corpus build`, each machine",
        "measured, a core, x C / M",
        lambda r, on: r.build_bytes * on.cores,
    ),
    (
        "memory of `hash --stats`",
        "measured at the longest text + L R / 8 + c R / 16",
        lambda r, on: r.count_bytes + LAYERS * ROWS / 8 + on.cores * ROWS / HEADS,
    ),
    ("memory of `attach`", "measured at the largest table", lambda r, on: r.attach_bytes),
    (
        "memory for training the tables, each machine",
        "L R (w + 4) / M",
        lambda r, on: LAYERS * ROWS * (ROW_BYTES + STATE_BYTES) / on.count,
    ),
    ("disk: text", "T b", lambda r, on: TOKENS * r.token_bytes),
    ("disk: tokens of 16 bits (twice as much above 65,536 ids)", "2 T", lambda r, on: 2 * TOKENS),
    ("disk: tables of a checkpoint", "L R w", lambda r, on: LAYERS * ROWS * ROW_BYTES),
    (
        "disk: a state of training",
        "L R (w + 4)",
        lambda r, on: LAYERS * ROWS * (ROW_BYTES + STATE_BYTES),
    ),
)
TOKENS_A_SECOND: tuple[Need, ...] = (
    (
        "from memory",
        "C / (L H s_m)",
        lambda r, on: on.all_cores / (LAYERS * HEADS * r.ram),
    ),
    (
        "from one disk a machine",
        "M / (L H s_d)",
        lambda r, on: on.count / (LAYERS * HEADS * r.disk),
    ),
)


def needs(rates: Rates, kind: tuple[Need, ...], shown: Callable[[float], str]) -> str:
    """Return a table of needs for this machine, a large one, and a cluster."""
    columns = (
        Machines("this machine", rates.cores, 1),
        Machines("one machine", 64, 1),
        Machines("16 machines", 64, 16),
    )
    names = [f"{it.name}, {it.all_cores:,} cores" for it in columns]
    lines = [f"| need | formula | {' | '.join(names)} |", "|---|---|" + "---|" * len(columns)]
    for words, formula, number in kind:
        values = (number(rates, it) for it in columns)
        cells = ["-" if value is None else shown(value) for value in values]
        lines.append(f"| {words} | `{formula}` | {' | '.join(cells)} |")
    return "\n".join(lines)
