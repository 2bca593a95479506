"""The planner against a search by hand: every k in turn, then single steps, with its own sums."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

import engram
from engram.addressing.primes import head_primes, stored_rows
from engram.backbone import load_backbone
from engram.errors import DoesNotFitError, UsageError
from engram.layouts import get_layout
from engram.sizing.plan import Limits, Planner
from engram.sizing.run_options import ReportOptions, RunOptions
from engram.sizing.shape import memory_shape
from engram.sizing.size_options import SizeOptions
from engram.sizing.weights import total_of
from engram.sizing.working_state import activation_bytes, cache_bytes, lora_params

GB = 10**9
# Bytes of a value; of fp8, a scale for every 32 values is apart.
ITEM = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1}
# fp32 values of a dense optimiser for a parameter, besides the master copy of a 16-bit weight.
STATES = {"adam": 2, "momentum": 1, "sgd": 0}
# Columns of a table's state in float32: of one value a row, and of as many as the row has.
COLUMNS = {
    **{"rowwise-adagrad": (1, 0), "rowwise-rmsprop": (1, 0)},
    **{"sparse-adam": (0, 2), "sparse-momentum": (0, 1)},
}
PAGE = 4096


def in_pages(size):
    return -(-size // PAGE) * PAGE


def shape_of(model, **changes):
    backbone = load_backbone(model)
    values = {
        **{"layout": "demo", "layer_ids": None, "n_head_per_ngram": 8, "n_embed_per_ngram": 512},
        **{"max_ngram_size": None, "hidden_size": None, "engram_vocab_size": None},
        **{"hc_mult": None, "kernel_size": None, "table_dtype": None},
        **changes,
    }
    return memory_shape(backbone, **values), backbone


class ByHand:
    """The amounts that a memory takes, added up line by line."""

    def __init__(self, shape, backbone, options, budget=None):
        self.shape, self.backbone, self.options, self.budget = shape, backbone, options, budget
        self.base_dtype = backbone.dtype or "bfloat16"
        self.dtype = options.dtype or backbone.float_dtype or "bfloat16"
        parts = get_layout(shape.layout).dense_parts(shape.sizes)
        self.dense = sum(parts.values()) * len(shape.layer_ids)
        self.ranks = max(1, options.tp)

    def rows(self, rows_per_order):
        """Rows of each layer's table: primes from the stated number on, padded."""
        sized = self.sized(rows_per_order)
        primes = head_primes(sized)
        return [stored_rows(primes[layer], sized.row_multiple) for layer in primes]

    def sized(self, rows_per_order):
        return replace(self.shape, engram_table_size=[rows_per_order] * len(self.shape.orders))

    def fits(self, rows_by_layer, place):
        """Whether tables of these rows fit with all else."""
        shape, options = self.shape, self.options
        width = shape.row_width
        if self.budget is not None and sum(rows_by_layer) * width + self.dense > self.budget:
            return False
        taken = {"gpu": 0, "cpu": 0, "disk": 0}
        computes = "gpu" if options.tp else "cpu"
        row = width * ITEM[self.dtype] + (-(-width // 32) if self.dtype == "fp8" else 0)
        around = "bfloat16" if self.dtype == "fp8" else self.dtype
        is_sparse = options.optimizer not in STATES
        for rows in rows_by_layer:
            own = -(-rows // self.ranks)
            taken[place] += own * row if place == "gpu" else 0
            if place == "cpu":
                taken["cpu"] += own * row * self.ranks
            if place == "disk":
                taken["disk"] += rows * row
            if options.mode == "training":
                tokens = options.batch * options.context
                if is_sparse:
                    self.add_sparse(taken, place, rows, tokens * shape.n_columns)
                else:
                    more = own * row + own * width * self.state_bytes(self.dtype)
                    taken[place] += more * (self.ranks if place == "cpu" else 1)
        taken[computes] += self.dense * ITEM[around]
        # Offsets of the heads in int64, and one map of the vocabulary to compressed ids in int32.
        taken[computes] += 8 * shape.n_columns * len(shape.layer_ids)
        taken[computes] += 0 if shape.layout == "qwen_ple" else 4 * shape.engram_vocab_size
        base = self.backbone.params
        taken[computes] += -(-base * ITEM[self.base_dtype] // self.ranks)
        if options.mode == "training":
            taken[computes] += self.dense * (ITEM[around] + self.state_bytes(around))
            if options.train == "all":
                taken[computes] += -(-base * ITEM[self.base_dtype] // self.ranks)
                taken[computes] += -(-base * self.state_bytes(self.base_dtype) // self.ranks)
            if options.train == "lora":
                taken[computes] += 16 * lora_params(self.backbone)
        item = ITEM[self.backbone.float_dtype or "bfloat16"]
        if options.mode == "inference":
            taken[computes] += -(-cache_bytes(self.backbone, options, item) // self.ranks)
        taken[computes] += activation_bytes(self.backbone, shape, options, item)
        there = {"gpu": options.device_memory, "cpu": options.host_memory, "disk": options.disk}
        if place == "disk" and options.tokens_per_second and options.disk_iops:
            reads = shape.n_columns * len(shape.layer_ids) * (2 if self.dtype == "fp8" else 1)
            if options.mode == "training":
                reads *= 1 + sum(COLUMNS[options.optimizer])
            if reads * options.tokens_per_second > options.disk_iops:
                return False
        return all(there[home] is None or taken[home] <= there[home] for home in taken)

    def add_sparse(self, taken, place, rows, touched):
        """Add gradients and state of a table of so many rows, of which a step touches some."""
        own, width, steps = -(-rows // self.ranks), self.shape.row_width, self.options.save_every
        by_row, by_value = COLUMNS[self.options.optimizer]
        files = [width * ITEM[self.dtype], *[4] * by_row, *[4 * width] * by_value]
        gradients = min(touched, own) * (4 * width + 8)
        if place == "gpu":
            taken["gpu"] += gradients + own * sum(files[1:])
            return
        taken["cpu"] += gradients * self.ranks
        if place == "cpu":
            taken["cpu"] += own * sum(files[1:]) * self.ranks
            return
        changed, changed_own = rows, own
        if steps is not None:
            changed, changed_own = min(rows, touched * steps), min(own, touched * steps)
        taken["cpu"] += len(files) * (-(-own // 8) + 16 * changed_own) * self.ranks
        taken["disk"] += rows * sum(files[1:])
        for row_bytes in files:
            taken["disk"] += in_pages(changed * row_bytes) + in_pages(changed * 8)

    def state_bytes(self, dtype):
        """Bytes of optimiser state for a parameter, under dense Adam where rows are apart."""
        return (4 if ITEM[dtype] < 4 else 0) + 4 * STATES.get(self.options.optimizer, 2)

    def search(self, place):
        """Return the largest rows per order: whole k in turn, then steps of a row per head."""
        vocab, heads = self.shape.engram_vocab_size, self.shape.n_head_per_ngram
        columns, multiple = self.shape.n_columns, self.shape.row_multiple
        layers = len(self.shape.layer_ids)

        def at_least(rows):
            """Rows by layer if every head were no larger than stated: what surely is needed."""
            least = rows // heads * columns
            return [-(-least // multiple) * multiple] * layers

        k = next(k for k in count(1) if not self.fits(at_least(k * vocab), place)) - 1
        while k and not self.fits(self.rows(k * vocab), place):
            k -= 1
        step = k * vocab // heads
        # Up in steps that shrink, each of them checked: sizes only grow with the rows.
        width = max(1, vocab // heads)
        while width:
            if step + width >= 2 and self.fits(self.rows((step + width) * heads), place):
                step += width
            else:
                width //= 2
        while self.fits(self.rows((step + 1) * heads), place):
            step += 1
        return k, step


def ask(model, changes=None, budget=None, **options):
    """A question: model, shape, options."""
    return (model, changes or {}, budget, {"context": 512, **options})


TRAIN = {"mode": "training"}
QUESTIONS = {
    **{
        f"{model} {device} GB {dtype or ''}": ask(model, device_memory=device * GB, dtype=dtype)
        for model, device in (
            ("gpt2", 2),
            ("smollm2-135m", 4),
            ("qwen3-0.6b", 6),
            ("llama-3.2-1b", 8),
            ("gemma-3-1b-pt", 8),
            ("qwen2.5-7b", 24),
            ("olmo-2-0425-1b", 12),
            ("pythia-410m", 3),
        )
        for dtype in (None, "fp8")
    },
    **{
        f"{model} trains {train} {optimizer}": ask(
            model, device_memory=device * GB, optimizer=optimizer, train=train, **TRAIN
        )
        for model, device in (("smollm2-135m", 8), ("qwen3-0.6b", 24))
        for train in ("memory", "all", "lora")
        for optimizer in ("adam", "rowwise-adagrad", "sparse-adam")
    },
    "tables in RAM": ask("qwen3-0.6b", device_memory=8 * GB, host_memory=16 * GB, tables="cpu"),
    "trained in RAM": ask(
        "qwen3-0.6b",
        device_memory=24 * GB,
        host_memory=32 * GB,
        tables="cpu",
        optimizer="rowwise-adagrad",
        **TRAIN,
    ),
    **{
        f"trained on disk by {optimizer}": ask(
            "qwen3-0.6b",
            device_memory=24 * GB,
            host_memory=64 * GB,
            disk=50 * GB,
            tables="disk",
            optimizer=optimizer,
            train="memory",
            **TRAIN,
        )
        for optimizer in COLUMNS
    },
    "trained on a slow disk": ask(
        "qwen3-0.6b",
        device_memory=24 * GB,
        host_memory=64 * GB,
        disk=50 * GB,
        tables="disk",
        optimizer="rowwise-adagrad",
        disk_iops=128_000,
        tokens_per_second=2000,
        **TRAIN,
    ),
    "trained on disk, few steps to a checkpoint": ask(
        "smollm2-135m",
        device_memory=8 * GB,
        host_memory=64 * GB,
        disk=50 * GB,
        tables="disk",
        optimizer="rowwise-adagrad",
        save_every=20,
        **TRAIN,
    ),
    "trained on disk, a small host": ask(
        "smollm2-135m",
        device_memory=8 * GB,
        host_memory=GB,
        disk=500 * GB,
        tables="disk",
        optimizer="rowwise-adagrad",
        save_every=100,
        **TRAIN,
    ),
    "trained on disk without a GPU": ask(
        "smollm2-135m",
        tp=0,
        host_memory=8 * GB,
        disk=100 * GB,
        optimizer="sparse-adam",
        train="memory",
        **TRAIN,
    ),
    "trained on disk, rows of odd size": ask(
        "gpt2",
        {"n_embed_per_ngram": 600},
        device_memory=8 * GB,
        host_memory=64 * GB,
        disk=20 * GB,
        tables="disk",
        optimizer="sparse-momentum",
        save_every=50,
        **TRAIN,
    ),
    "two GPUs trained on disk": ask(
        "llama-3.2-1b",
        device_memory=24 * GB,
        host_memory=64 * GB,
        disk=100 * GB,
        tp=2,
        tables="disk",
        optimizer="rowwise-rmsprop",
        **TRAIN,
    ),
    "momentum": ask("gpt2", device_memory=8 * GB, optimizer="momentum", **TRAIN),
    "sgd": ask("gpt2", device_memory=8 * GB, optimizer="sgd", **TRAIN),
    "no GPU": ask("smollm2-135m", tp=0, host_memory=4 * GB),
    "no GPU trained": ask(
        "smollm2-135m", tp=0, host_memory=8 * GB, train="memory", optimizer="sparse-adam", **TRAIN
    ),
    "disk": ask(
        "qwen3-0.6b",
        device_memory=4 * GB,
        disk=20 * GB,
        tables="disk",
        disk_iops=500_000,
        tokens_per_second=2000,
    ),
    "four GPUs": ask("llama-3.1-8b", device_memory=24 * GB, tp=4),
    "two GPUs, RAM": ask(
        "llama-3.1-8b", device_memory=24 * GB, host_memory=64 * GB, tp=2, tables="cpu"
    ),
    "two GPUs trained": ask(
        "llama-3.2-1b", device_memory=24 * GB, tp=2, optimizer="rowwise-adagrad", **TRAIN
    ),
    "long context": ask("llama-3.2-1b", device_memory=8 * GB, context=32_768),
    "large batch": ask("qwen3-0.6b", device_memory=12 * GB, batch=16, context=2048),
    "budget": ask("gpt2", budget=40_000_000),
    "budget and device": ask("gpt2", budget=10**9, device_memory=2 * GB),
    "device and budget": ask("gpt2", budget=60_000_000, device_memory=2 * GB),
    "V4.1's layout": ask("smollm2-135m", {"layout": "deepseek_v41"}, device_memory=2 * GB),
    "Qwen's layout": ask(
        "smollm2-135m", {"layout": "qwen_ple", "layer_ids": [2]}, device_memory=2 * GB
    ),
    "four layers": ask("qwen3-0.6b", {"layer_ids": [1, 5, 9, 13]}, device_memory=6 * GB),
    "five-grams": ask("gpt2", {"max_ngram_size": 5}, device_memory=3 * GB),
    "wide rows": ask(
        "gpt2", {"n_embed_per_ngram": 1024, "n_head_per_ngram": 4}, device_memory=2 * GB
    ),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_planner_finds_what_a_search_by_hand_finds(question):
    model, changes, budget, given = QUESTIONS[question]
    shape, backbone = shape_of(model, **changes)
    options = RunOptions(**given)
    plan = Planner(
        shape=shape, backbone=backbone, options=options, limits=Limits(params=budget)
    ).largest()
    by_hand = ByHand(shape, backbone, options, budget)
    k, step = by_hand.search(plan.trial.use.tables)
    heads = shape.n_head_per_ngram
    assert plan.rows_per_order // shape.engram_vocab_size == k
    assert plan.rows_per_order // heads == step
    assert plan.binding
    assert plan.trial.fits
    assert not by_hand.fits(by_hand.rows((step + 1) * heads), plan.trial.use.tables)


def test_there_are_enough_questions():
    assert len(QUESTIONS) >= 40


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tables": "cpu", "device_memory": GB}, "on the cpu"),
        ({"mode": "training", "disk": GB}, "on the gpu"),
        ({"tables": "disk", "disk_iops": 1000, "tokens_per_second": 2000}, "on the disk"),
    ],
)
def test_tables_that_nothing_limits_are_refused(options, says):
    with pytest.raises(UsageError, match=f"Nothing limits tables {says}"):
        engram.size("gpt2", SizeOptions(**options))


@pytest.mark.parametrize("budget", range(3_278_016, 3_378_016, 25_000))
def test_twice_the_smallest_rows_never_fit(budget):
    """Primes of a few rows lie far apart, so that nominal rows would say nothing."""
    plan = engram.size("gpt2", SizeOptions(budget=budget)).plan
    assert plan is not None
    assert plan.doubling.keys() == {"budget"}
    twice = plan.rows_per_order // 8 * 16
    found = engram.size("gpt2", SizeOptions(rows=twice)).counts.total_params - budget
    assert plan.doubling["budget"].missing == found


def test_a_disk_that_cannot_keep_up_with_training_binds():
    """A look-up reads a row and its state: 32 rows a token, under sparse Adam two columns."""
    options = {"mode": "training", "optimizer": "sparse-adam", "tables": "disk", "disk": GB}
    options |= {"host_memory": 64 * GB, "device_memory": 80 * GB, "tokens_per_second": 1000}
    used = engram.size("gpt2", SizeOptions(disk_iops=96_000, **options)).trial.use.resources
    assert used["iops"].used == 96_000
    with pytest.raises(DoesNotFitError, match="disk reads of 95,999 reads/s lacks 1 reads/s"):
        engram.size("gpt2", SizeOptions(disk_iops=95_999, **options))


def test_tables_are_trained_on_disk_where_most_fit_there():
    options = {"device_memory": 8 * GB, "host_memory": 4 * GB, "disk": 100 * GB, **TRAIN}
    options["save_every"] = 10
    found = {
        optimizer: engram.size("gpt2", SizeOptions(optimizer=optimizer, **options))
        for optimizer in ("adam", "rowwise-adagrad")
    }
    assert found["adam"].trial.use.tables != "disk"
    on_disk = found["rowwise-adagrad"]
    assert (on_disk.trial.use.tables, on_disk.plan.binding) == ("disk", ("disk space",))
    tried = [(it.tables, it.optimizer) for it in on_disk.alternatives]
    assert tried == [
        *(("gpu", "rowwise-adagrad"), ("cpu", "rowwise-adagrad"), ("disk", "rowwise-adagrad")),
        ("disk", "sparse-adam"),
    ]
    # Gradients and bitmaps are in the memory of a host, of which nobody has said how much.
    unknown = engram.size(
        "gpt2",
        SizeOptions(optimizer="rowwise-adagrad", tables="disk", **{**options, "host_memory": None}),
    )
    assert unknown.fits is None


def test_a_slow_disk_is_refused_whatever_its_size():
    options = {"tables": "disk", "disk_iops": 1000, "tokens_per_second": 2000}
    with pytest.raises(DoesNotFitError, match="disk reads") as caught:
        engram.size("gpt2", SizeOptions(budget=GB, **options))
    assert "--tokens-per-second" in caught.value.hint


def test_a_whole_k_is_placed_as_report_places_it():
    """The largest memory fits the disk alone, but of a whole k the fastest place has room."""
    on_gpu = engram.size("gpt2", SizeOptions(device_memory=2 * GB))
    disk = total_of(on_gpu.trial.use.weights, "table")[1] + 10**7
    machine = {"device_memory": 2 * GB, "disk": disk}
    sized = engram.size("gpt2", SizeOptions(whole_k=True, **machine))
    assert sized.plan is not None
    assert sized.plan.trial.use.tables == "disk"
    found = engram.report(sized.config, "gpt2", ReportOptions(**machine))
    assert sized.trial.use.tables == found.use.tables == "gpu"
    assert found.fits


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("qwen3-0.6b", {"device_memory": 24 * GB, "host_memory": 64 * GB, "disk": 500 * GB}),
        ("gpt2", {"device_memory": 8 * GB, "host_memory": GB, "train": "lora", **TRAIN}),
        ("gpt2", {"device_memory": 4 * GB, "host_memory": GB, "budget": 10**8}),
    ],
)
def test_each_alternative_is_the_answer_to_its_own_question(model, options):
    sized = engram.size(model, SizeOptions(**options))
    assert len(sized.alternatives) >= 3
    for it in sized.alternatives:
        own = {"tables": it.tables, "dtype": it.dtype, "optimizer": it.optimizer or "adam"}
        plan = engram.size(model, SizeOptions(**{**options, **own})).plan
        assert plan is not None
        assert (it.rows_per_order, it.binding) == (plan.rows_per_order, plan.binding)
