"""`engram size`: table sizes from a budget, or what given table sizes cost."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engram.errors import UsageError
from engram.layouts import LAYOUT_NAMES
from engram.storage.files import check_file
from engram_cli.options import (
    BudgetOption,
    JsonOption,
    KOption,
    LayersOption,
    ModelOption,
    OverwriteOption,
    QuietOption,
    TableDtypeOption,
    VerboseOption,
)
from engram_cli.output import Output
from engram_cli.size_answer import SCHEMA, answer_of, corpus_answer, show
from engram_cli.values import blaming, read_bytes, read_count

if TYPE_CHECKING:
    from engram.backbone import Backbone
    from engram.config.engram_config import EngramConfig
    from engram.sizing.budget import Sizing
    from engram.sizing.table_load import CorpusStatistics, NgramCount

# By config key, or name of a value: the options that decide it.
_OPTIONS_OF = {
    **{"layout": ("layout",), "layer_ids": ("layers",), "n_head_per_ngram": ("heads",)},
    **{"n_embed_per_ngram": ("dim", "heads"), "max_ngram_size": ("max_ngram_size",)},
    **{"hidden_size": ("hidden_size",), "engram_vocab_size": ("vocab",), "hc_mult": ("hc_mult",)},
    **{"kernel_size": ("kernel_size",), "table_dtype": ("dtype",), "load": ("load",)},
    **{"k": ("k",), "share": ("share",), "fill": ("fill",), "tokens": ("tokens",)},
    "engram_table_size": ("rows", "k", "budget", "share", "memory", "corpus"),
}


def size(
    ctx: typer.Context,
    model: ModelOption = None,
    budget: BudgetOption = None,
    share: Annotated[
        str | None,
        typer.Option(
            metavar="S",
            help="Memory's share of the whole after attaching: a budget of S/(1-S) of the model. "
            "Default 0.25, a third of the model.",
        ),
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=read_bytes,
            help="Bytes for tables (in --dtype) and modules, as 8GiB.",
        ),
    ] = None,
    k: KOption = None,
    rows: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            parser=read_count,
            help="Instead of a budget: this many rows per n-gram ORDER.",
        ),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            metavar="STATS",
            help="What engram hash --json said of a text: how full its n-grams make the tables. "
            "Without a budget, the tables that they fill to --load.",
        ),
    ] = None,
    load: Annotated[
        float, typer.Option(metavar="F", help="Share of a table's rows that --corpus may fill.")
    ] = 0.7,
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            parser=read_count,
            help="Size for a text of this length, as 10B, predicted from that of --corpus.",
        ),
    ] = None,
    fill: Annotated[
        str | None,
        typer.Option(
            metavar="F",
            help="Not a whole k: F (0 to 1) of the rows that fill the budget; 1 takes all of them.",
        ),
    ] = None,
    per: Annotated[
        Literal["order", "head"],
        typer.Option(
            help="Whether --k and --rows are, and the table shows, rows of an n-gram ORDER (summed "
            "over its heads) or of one HEAD, as the reference demo counts."
        ),
    ] = "order",
    layers: LayersOption = None,
    heads: Annotated[int, typer.Option(help="Hash heads per order.")] = 8,
    dim: Annotated[int, typer.Option(help="Memory width per order.")] = 512,
    max_ngram_size: Annotated[
        int | None, typer.Option(help="Highest n-gram order. Default: the layout's (demo 3).")
    ] = None,
    hidden_size: Annotated[
        int | None, typer.Option(help="Width of the hidden states. Default: the model's.")
    ] = None,
    vocab: Annotated[
        int | None, typer.Option(help="Token ids. Default: the length of the model's tokenizer.")
    ] = None,
    hc_mult: Annotated[
        int | None, typer.Option(help="Residual streams. Default: the model's, mostly 1.")
    ] = None,
    kernel_size: Annotated[
        int | None, typer.Option(help="Taps of the convolution. Default: the layout's (demo 4).")
    ] = None,
    layout: Annotated[str, typer.Option(metavar="NAME", help=f"{LAYOUT_NAMES}.")] = "demo",
    dtype: TableDtypeOption = None,
    emit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the config; - prints it instead.")
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Find the largest k, and with it the table sizes, whose exact parameters fit a budget.

    k counts table rows per n-gram order as a multiple of the vocabulary. Every table gets its real
    prime, every projection, norm and convolution is counted. The memory is read in layers 1 and
    half the depth, unless --layers says otherwise.

    Examples:
        $ engram size --model gpt2
        $ engram size --model gpt2 --share 0.2 --layers 1,5 --json
        $ engram size --model llama-3.2-1b --memory 2GiB --dtype bf16 --fill 1
        $ engram size --model gpt2 --k 5
        $ engram size --model gpt2 --corpus stats.json --load 0.5 --tokens 1B
        $ engram size --hidden-size 2560 --vocab 128815 --layers 1,14 --hc-mult 4 --budget 5.8B
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    asked = {"budget": budget, "share": share, "memory": memory, "k": k, "rows": rows}
    asked = {name: value for name, value in asked.items() if value is not None}
    _check(asked, model, fill, corpus, tokens)
    is_printed = str(emit) == "-"
    if is_printed and json:
        raise UsageError("--emit - and --json both want stdout.", "Give --emit a file.")
    if emit is not None and not is_printed:
        check_file(emit, overwrite)
    from engram.config.config_doubts import config_doubts
    from engram.sizing.shape import memory_shape

    backbone = _backbone(model)
    statistics = None if corpus is None else _statistics(corpus)
    is_known = backbone is not None and backbone.tokenizer_vocab_size is not None
    if statistics is not None and statistics.is_compressed and vocab is None and not is_known:
        vocab = statistics.vocab_size
    known = {"schema": SCHEMA, "model_params": None if backbone is None else backbone.params}
    with out.answering_no(known), blaming(ctx, _OPTIONS_OF):
        shape = memory_shape(
            backbone,
            layout=layout,
            layer_ids=layers,
            n_head_per_ngram=heads,
            n_embed_per_ngram=dim,
            max_ngram_size=max_ngram_size,
            hidden_size=hidden_size,
            engram_vocab_size=vocab,
            hc_mult=hc_mult,
            kernel_size=kernel_size,
            table_dtype=dtype,
        )
        counts, length = _ngrams(statistics, shape, tokens)
        sizing = _size(shape, backbone, asked, fill, heads if per == "head" else 1, counts, load)
        answer = answer_of(sizing, backbone)
        answer["corpus"] = (
            None if statistics is None else corpus_answer(statistics, counts, sizing, length, load)
        )
    if backbone is not None:
        _note_differences(out, backbone, shape, vocab)
    for doubt in config_doubts(sizing.config):
        out.warn(doubt)
    if emit is not None:
        from engram.config.config_file import dump_config, write_config

        title = f"Sized by engram size{f' for {backbone.name}' if backbone else ''}"
        if is_printed:
            text = dump_config(sizing.config, title=title)
            out.result({}, lambda console: console.print(text, end="", soft_wrap=True))
            return
        write_config(emit, sizing.config, title=title)
        out.note(f"Wrote {emit}.")
    out.result(answer, lambda console: show(console, sizing, answer, per))
    if backbone is not None and backbone.unsuited:
        out.note(f"No memory can be attached to {backbone.name}: it is {backbone.unsuited}.")
        return
    # A catalogue name may be short; attach asks the hub.
    is_listed = backbone is not None and backbone.source == "catalogue"
    target = backbone.name if backbone is not None and is_listed else model or "MODEL"
    config = shlex.quote(str(emit or "engram.yaml"))
    attach = f"engram attach {shlex.quote(target)} -c {config} -o FOLDER"
    out.next_step(attach if emit else f"the same with --emit engram.yaml, then {attach}")


def _check(
    asked: dict[str, Any],
    model: str | None,
    fill: str | None,
    corpus: Path | None,
    tokens: int | None,
) -> None:
    if len(asked) > 1:
        raise UsageError(f"--{' and --'.join(asked)} exclude each other.", "Give one of them.")
    if tokens is not None and corpus is None:
        raise UsageError("--tokens predicts from a text.", "Give its statistics with --corpus.")
    if fill is not None and ("k" in asked or "rows" in asked or (corpus and not asked)):
        raise UsageError(
            "--fill is a part of a budget, but the size is given already.", "Leave it out."
        )
    if model is None and ("share" in asked or not (asked or corpus)):
        raise UsageError(
            "A share of the whole needs the model's size.",
            "Give --model, or --budget, --memory, --k, --rows or --corpus.",
        )


def _statistics(corpus: Path) -> CorpusStatistics:
    from engram.sizing.table_load import read_statistics

    return read_statistics(corpus)


def _backbone(model: str | None) -> Backbone | None:
    from engram.backbone import load_backbone
    from engram.sizing.shape import tokenizer_length

    if model is None:
        return None
    backbone = load_backbone(model)
    return replace(backbone, tokenizer_vocab_size=tokenizer_length(backbone))


def _note_differences(
    out: Output, backbone: Backbone, shape: EngramConfig, vocab: int | None
) -> None:
    if shape.hidden_size != backbone.hidden_size:
        out.note(
            f"Sized for hidden size {shape.hidden_size}: it cannot be attached to {backbone.name}, "
            f"which has {backbone.hidden_size}."
        )
    if vocab is None and backbone.tokenizer_vocab_size is None:
        out.note(
            f"The length of {backbone.name}'s tokenizer is not known here: k counts its "
            f"{shape.engram_vocab_size:,} vocabulary rows. --vocab states it."
        )


def _ngrams(
    statistics: CorpusStatistics | None, shape: EngramConfig, tokens: int | None
) -> tuple[list[NgramCount], int]:
    """The n-grams of the text to size for, and its length."""
    if statistics is None:
        return [], 0
    statistics.check(shape)
    length = statistics.tokens if tokens is None else tokens
    return [statistics.ngrams(order, length) for order in shape.orders], length


def _size(
    shape: EngramConfig,
    backbone: Backbone | None,
    asked: dict[str, Any],
    fill: str | None,
    heads: int,
    counts: list[NgramCount],
    load: float,
) -> Sizing:
    from engram.sizing import budget

    if counts and not asked:
        from engram.sizing.table_load import rows_per_order

        return budget.memory_cost(shape, rows_per_order(shape, counts, load))
    if "k" in asked:
        return budget.memory_cost(shape, budget.rows_of_k(shape, asked["k"]) * heads)
    if "rows" in asked:
        return budget.memory_cost(shape, asked["rows"] * heads)
    base_dtype = None if backbone is None else backbone.float_dtype
    if "memory" in asked:
        budget_params = budget.memory_budget(shape, asked["memory"], base_dtype)
    elif "budget" in asked or backbone is None:
        budget_params = asked["budget"]
    else:
        share = asked.get("share", budget.SEED_SHARE)
        budget_params = budget.share_budget(backbone.params, share)
    return budget.size_memory(shape, budget_params, fill=fill, base_dtype=base_dtype)
