"""`size`: the table sizes of a memory from a budget, or the cost of given table sizes."""

from dataclasses import replace
from pathlib import Path

from engram.arguments import checked
from engram.backbone import Backbone, given_backbone
from engram.config.engram_config import EngramConfig
from engram.errors import UsageError
from engram.sizing import budget
from engram.sizing.shape import memory_shape, tokenizer_length
from engram.sizing.size_options import SizeOptions
from engram.sizing.sized_memory import CorpusFill, Sizing
from engram.sizing.table_load import NgramCount, order_loads, read_statistics, rows_per_order


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
        DoesNotFitError: No whole k fits the budget; the details name the smallest that would do.
        UsageError: Options exclude each other, or the model's sizes are not known.
        MissingFileError: There is no such model, or no such file of statistics.
        ConfigError: The config would hold impossible values.
        LayoutError: The model has no such layer, or the layout is unknown.

    Examples:
        >>> import engram
        >>> sized = engram.size("gpt2", engram.SizeOptions(budget=40_000_000, layers=[1, 6]))
        >>> sized.k, sized.config.engram_table_size
        (2, [100514, 100514])
    """
    options = SizeOptions() if options is None else options
    if model is None and ("share" in options.sizes or not (options.sizes or options.corpus)):
        raise UsageError(
            "A share of the whole needs the model's size.",
            "Give --model, or --budget, --memory, --k, --rows or --corpus.",
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
    notes = () if backbone is None else _notes(backbone, shape, vocab)
    if statistics is None:
        return replace(_sized(shape, backbone, options, []), backbone=backbone, notes=notes)
    statistics.check(shape)
    length = statistics.tokens if options.tokens is None else options.tokens
    counts = [statistics.ngrams(order, length) for order in shape.orders]
    sizing = _sized(shape, backbone, options, counts)
    loads = order_loads(counts, sizing.counts, options.load)
    fill = CorpusFill(str(statistics.file), statistics.tokens, length, options.load, loads)
    return replace(sizing, backbone=backbone, corpus=fill, notes=notes)


def _notes(backbone: Backbone, shape: EngramConfig, vocab: int | None) -> tuple[str, ...]:
    notes = []
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
    heads = options.heads if options.per == "head" else 1
    if counts and not options.sizes:
        return budget.memory_cost(shape, rows_per_order(shape, counts, options.load))
    if options.k is not None:
        return budget.memory_cost(shape, budget.rows_of_k(shape, options.k) * heads)
    if options.rows is not None:
        return budget.memory_cost(shape, options.rows * heads)
    base_dtype = None if backbone is None else backbone.float_dtype
    if options.memory is not None:
        budget_params = budget.memory_budget(shape, options.memory, base_dtype)
    elif options.budget is not None:
        budget_params = options.budget
    else:
        # Without a model, `size` demands one of the others.
        budget_params = budget.share_budget(
            backbone.params if backbone else 0,
            budget.SEED_SHARE if options.share is None else options.share,
        )
    return budget.size_memory(shape, budget_params, fill=options.fill, base_dtype=base_dtype)
