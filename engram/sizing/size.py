"""`size`: the table sizes of a memory from a budget, or the cost of given table sizes."""

from dataclasses import replace
from pathlib import Path

from engram.arguments import checked
from engram.backbone import Backbone, given_backbone
from engram.config.engram_config import EngramConfig
from engram.config.table_dtype import loading_note
from engram.errors import UsageError
from engram.sizing import budget
from engram.sizing.advice import advise
from engram.sizing.plan import Limits, Planner
from engram.sizing.run_options import Mode, RunOptions
from engram.sizing.shape import memory_shape, tokenizer_length
from engram.sizing.size_options import SizeOptions
from engram.sizing.sized_memory import CorpusFill, Sizing
from engram.sizing.table_load import NgramCount, order_loads, read_statistics, rows_per_order
from engram.sizing.weights import BASE_DTYPE

_OF_A_MACHINE = (
    *("mode", "tables", "tp", "tokens_per_second", "save_every", "context", "batch"),
    "base_bytes",
)


@checked()
def size(model: str | Path | Backbone | None = None, options: SizeOptions | None = None) -> Sizing:
    """Find the largest memory that fits a budget, its tables sized by their real primes.

    Args:
        model: Base model: a name of the built-in catalogue, a folder with a config.json, a hub id,
            or what `engram.load_backbone` returned; None where the options state its sizes.
        options: Budget and shape; by default a quarter of the whole after attaching.

    Returns:
        The sized memory: `config` to attach, `counts` of its parameters, `k`, and `to_dict()`: what
        ``engram size --json`` prints.

    Raises:
        DoesNotFitError: Not even the smallest tables fit, or no whole k where one was asked for;
            the details name the smallest memory that would do.
        UsageError: Options exclude each other, or the model's sizes are not known.
        MissingFileError: There is no such model, or no such file of statistics.
        ConfigError: The config would hold impossible values.
        LayoutError: The model has no such layer, or the layout is unknown.

    Examples:
        >>> import engram
        >>> sized = engram.size("gpt2", engram.SizeOptions(budget=40_000_000, layers=[1, 6]))
        >>> sized.k, sized.config.engram_table_size
        (2, [142719, 142719])
    """
    options = SizeOptions() if options is None else options
    is_free = not (options.sizes or options.corpus or options.has_machine)
    if model is None and (options.share is not None or is_free):
        raise UsageError(
            "A share of the whole needs the model's size.",
            "Give --model, or --budget, --memory, --k, --rows, --corpus or --device-memory.",
        )
    backbone = given_backbone(model)
    if backbone is not None:
        backbone = replace(backbone, tokenizer_vocab_size=tokenizer_length(backbone))
    statistics = None if options.corpus is None else read_statistics(Path(options.corpus))
    vocab = options.vocab
    if vocab is None and statistics is not None and statistics.is_compressed:
        is_known = backbone is not None and backbone.tokenizer_vocab_size is not None
        vocab = None if is_known else statistics.vocab_size
    shape = memory_shape(
        backbone,
        layout=options.layout,
        layer_ids=options.layers,
        n_head_per_ngram=options.heads,
        n_embed_per_ngram=options.dim,
        max_ngram_size=options.max_ngram_size,
        hidden_size=options.hidden_size,
        engram_vocab_size=vocab,
        hc_mult=options.hc_mult,
        kernel_size=options.kernel_size,
        table_dtype=options.dtype,
    )
    counts: list[NgramCount] = []
    if statistics is not None:
        statistics.check(shape)
        length = statistics.tokens if options.tokens is None else options.tokens
        counts = [statistics.ngrams(order, length) for order in shape.orders]
    sizing = _sized(shape, backbone, options, counts)
    fill = None
    if statistics is not None:
        loads = order_loads(counts, sizing.counts, options.load)
        fill = CorpusFill(str(statistics.file), statistics.tokens, length, options.load, loads)
    return replace(
        sizing,
        backbone=backbone,
        corpus=fill,
        advice=advise(
            sizing.counts,
            backbone,
            () if fill is None else fill.orders,
            options.train_tokens,
            options.learning_rate,
            # The default of `engram train`, where no training is planned.
            options.optimizer if options.mode == "training" else "rowwise-adagrad",
        ),
        notes=(*_unused(options), *_notes(backbone, shape, vocab, options.mode)),
    )


def _unused(options: SizeOptions) -> list[str]:
    """Say which options change nothing without a machine."""
    if options.has_machine:
        return []
    plain = RunOptions()
    given = [name for name in _OF_A_MACHINE if getattr(options, name) != getattr(plain, name)]
    if options.train_tokens is not None and "mode" in given:
        given.remove("mode")  # it goes with the optimiser, which the advice speaks of
    flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
    note = f"{flags}: of a machine whose size is not given; --device-memory gives it."
    return [note] if given else []


def _notes(
    backbone: Backbone | None, shape: EngramConfig, vocab: int | None, mode: Mode
) -> tuple[str, ...]:
    notes = []
    dtype = shape.stored_dtype(None if backbone is None else backbone.float_dtype)
    if mode == "training" and dtype.note is not None:
        notes.append(dtype.note)
    if backbone is None:
        return tuple(notes)
    loaded = loading_note(dtype.name, backbone.float_dtype or BASE_DTYPE)
    if loaded is not None:
        notes.append(loaded)
    if shape.hidden_size != backbone.hidden_size:
        notes.append(
            f"Sized for hidden size {shape.hidden_size}: it cannot be attached to {backbone.name}, "
            f"which has {backbone.hidden_size}."
        )
    if vocab is None and backbone.tokenizer_vocab_size is None:
        notes.append(
            f"The length of {backbone.name}'s tokenizer is not known here: k counts its "
            f"{shape.engram_vocab_size:,} vocabulary rows. --vocab states it."
        )
    return tuple(notes)


def _sized(
    shape: EngramConfig, backbone: Backbone | None, options: SizeOptions, counts: list[NgramCount]
) -> Sizing:
    limits = Limits(params=_budget_params(backbone, options), memory_bytes=options.memory)
    planner = Planner(shape=shape, backbone=backbone, options=options, limits=limits)
    if not options.is_solved:
        trial = planner.judge(budget.count_rows(shape, _stated_rows(shape, options, counts)))
        config = trial.counts.config
        return Sizing(config=config, counts=trial.counts, k=budget.k_of(config), trial=trial)
    plan = planner.largest()
    k, rows = plan.rows_per_order // shape.engram_vocab_size, plan.rows_per_order
    if options.whole_k:
        if not k:
            whole = planner.judge(budget.count_rows(shape, shape.engram_vocab_size))
            raise planner.refusal(whole, "Without --whole-k, smaller tables fit.")
        rows = k * shape.engram_vocab_size
    trial = planner.judge(budget.count_rows(shape, rows))
    return Sizing(
        config=trial.counts.config,
        counts=trial.counts,
        k=k,
        trial=trial,
        budget_params=limits.params,
        plan=plan,
        alternatives=planner.alternatives(plan) if options.has_machine else (),
        seed_rule_k=None if limits.params is None else budget.seed_rule_k(shape, limits.params),
    )


def _budget_params(backbone: Backbone | None, options: SizeOptions) -> int | None:
    """Return the parameters that the memory may have; None where nothing limits them."""
    if options.budget is not None:
        return options.budget
    is_default = options.is_solved and not options.sizes and not options.has_machine
    if options.share is None and not is_default:
        return None
    share = budget.SEED_SHARE if options.share is None else options.share
    # Without a model, `size` demands one of the others.
    return budget.share_budget(backbone.params if backbone else 0, share)


def _stated_rows(
    shape: EngramConfig, options: SizeOptions, counts: list[NgramCount]
) -> int | list[int]:
    """Return the rows per order that were asked for, or that a text fills."""
    heads = options.heads if options.per == "head" else 1
    if options.k is not None:
        return budget.rows_of_k(shape, options.k) * heads
    if options.rows is not None:
        return options.rows * heads
    return rows_per_order(shape, counts, options.load)
