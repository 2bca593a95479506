"""`engram size`: table sizes from a budget, or what given table sizes cost."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engram.errors import DoesNotFitError, InputError, UsageError
from engram.units import format_bytes, parse_bytes, parse_count
from engram_cli.options import (
    JsonOption,
    ModelOption,
    OverwriteOption,
    QuietOption,
    VerboseOption,
    layer_list,
)
from engram_cli.output import Output

if TYPE_CHECKING:
    from rich.console import Console

    from engram.backbone import Backbone
    from engram.config import EngramConfig
    from engram.sizing.budget import Sizing

SCHEMA = "engram.size/1"

DtypeOption = Annotated[
    str | None,
    typer.Option(help="dtype of the stored tables: float32, bfloat16, float16, fp8 or int8."),
]


def size(
    model: ModelOption = None,
    budget: Annotated[
        str | None, typer.Option(metavar="COUNT", help="Parameters for the memory, such as 40M.")
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            metavar="S",
            help="Memory's share of the whole after attaching: a budget of S/(1-S) of the model. "
            "Default 0.25, a third of the model.",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Bytes for tables (in --dtype) and modules, as 8GiB."),
    ] = None,
    k: Annotated[
        float | None,
        typer.Option(
            "--k", help="No budget: rows as this multiple of the vocabulary; what it costs."
        ),
    ] = None,
    rows: Annotated[
        str | None, typer.Option(metavar="COUNT", help="No budget: this many rows; what they cost.")
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
        str | None,
        typer.Option(
            metavar="COUNT",
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
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="IDS",
            help="Layers from 0 that read the memory, as 1,6. Default: 1 and the middle.",
        ),
    ] = None,
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
    layout: Annotated[str, typer.Option(help="demo, deepseek_v41 or qwen_ple.")] = "demo",
    dtype: DtypeOption = None,
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
    prime, every projection, norm and convolution is counted.

    Examples:
        $ engram size --model gpt2
        $ engram size --model gpt2 --share 0.2 --layers 1,5 --json
        $ engram size --model llama-3.2-1b --memory 2GiB --dtype bf16 --fill 1
        $ engram size --model gpt2 --k 5
        $ engram size --model gpt2 --corpus stats.json --load 0.5 --tokens 1B
        $ engram size --hidden-size 2560 --vocab 128815 --layers 1,14 --hc-mult 4 --budget 5.8B
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    from engram.backbone import load_backbone
    from engram.sizing.budget import memory_cost
    from engram.sizing.load import order_loads, read_statistics, rows_per_order
    from engram.sizing.shape import memory_shape, tokenizer_length

    asked = {"budget": budget, "share": share, "memory": memory, "k": k, "rows": rows}
    asked = {name: value for name, value in asked.items() if value is not None}
    _check(asked, model, fill, emit, json, corpus, tokens)
    backbone = load_backbone(model) if model is not None else None
    if backbone is not None:
        backbone = replace(backbone, tokenizer_vocab_size=tokenizer_length(backbone))
    statistics = read_statistics(corpus) if corpus is not None else None
    is_known = backbone is not None and backbone.tokenizer_vocab_size is not None
    if statistics is not None and statistics.is_compressed and vocab is None and not is_known:
        vocab = statistics.vocab_size
    shape = memory_shape(
        backbone,
        layout=layout,
        layer_ids=None if layers is None else layer_list(layers),
        n_head_per_ngram=heads,
        n_embed_per_ngram=dim,
        max_ngram_size=max_ngram_size,
        hidden_size=hidden_size,
        engram_vocab_size=vocab,
        hc_mult=hc_mult,
        kernel_size=kernel_size,
        table_dtype=dtype,
    )
    if backbone is not None:
        _note_differences(out, backbone, shape, vocab)
    counts = []
    if statistics is not None:
        statistics.check(shape)
        length = statistics.tokens if tokens is None else parse_count(tokens)
        counts = [statistics.ngrams(order, length) for order in shape.orders]
    try:
        if statistics is not None and not asked:
            sizing = memory_cost(shape, rows_per_order(shape, counts, load))
        else:
            sizing = _size(shape, backbone, asked, fill, heads if per == "head" else 1)
    except DoesNotFitError as error:
        if json:
            params = None if backbone is None else backbone.params
            answer = {"schema": SCHEMA, "model_params": params, "fits": False, **error.details}
            out.result(answer, lambda _: None)
        raise
    if emit is not None:
        from engram.config_file import dump_config, write_config

        title = f"Sized by engram size{f' for {backbone.name}' if backbone else ''}"
        if str(emit) == "-":
            text = dump_config(sizing.config, title=title)
            out.result({}, lambda console: console.print(text, end="", soft_wrap=True))
            return
        if emit.exists() and not overwrite:
            raise InputError(f"{emit} is already there.", "Give --overwrite to replace it.")
        write_config(emit, sizing.config, title=title)
        out.note(f"Wrote {emit}.")
    payload = _payload(sizing, backbone)
    payload["corpus"] = None
    if statistics is not None:
        loads = [asdict(item) for item in order_loads(counts, sizing.counts, load)]
        payload["corpus"] = {
            "file": str(corpus),
            "tokens": statistics.tokens,
            "sized_for_tokens": length,
            "wanted_load": load,
            "orders": loads,
        }
    out.result(payload, lambda console: _show(console, sizing, payload, model, per, emit))


def _check(
    asked: dict[str, Any],
    model: str | None,
    fill: str | None,
    emit: Path | None,
    json: bool,
    corpus: Path | None,
    tokens: str | None,
) -> None:
    if len(asked) > 1:
        raise UsageError(f"--{' and --'.join(asked)} exclude each other.", "Give one of them.")
    if tokens is not None and corpus is None:
        raise UsageError("--tokens predicts from a text.", "Give its statistics with --corpus.")
    if fill is not None and ("k" in asked or "rows" in asked or (corpus and not asked)):
        raise UsageError("--fill is a part of a budget, but the size is given already.")
    if str(emit) == "-" and json:
        raise UsageError("--emit - and --json both want stdout.", "Give --emit a file.")
    if model is None and ("share" in asked or not (asked or corpus)):
        raise UsageError(
            "A share of the whole needs the model's size.",
            "Give --model, or --budget, --memory, --k, --rows or --corpus.",
        )


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


def _size(
    shape: EngramConfig,
    backbone: Backbone | None,
    asked: dict[str, Any],
    fill: str | None,
    heads: int,
) -> Sizing:
    from engram.sizing.budget import (
        SEED_SHARE,
        memory_budget,
        memory_cost,
        rows_of_k,
        share_budget,
        size_memory,
    )

    if "k" in asked:
        return memory_cost(shape, rows_of_k(shape, asked["k"]) * heads)
    if "rows" in asked:
        return memory_cost(shape, parse_count(asked["rows"]) * heads)
    if "memory" in asked:
        budget_params = memory_budget(shape, parse_bytes(asked["memory"]))
    elif "budget" in asked or backbone is None:
        budget_params = parse_count(asked["budget"])
    else:
        budget_params = share_budget(backbone.params, asked.get("share", SEED_SHARE))
    return size_memory(shape, budget_params, fill=fill)


def _payload(sizing: Sizing, backbone: Backbone | None) -> dict[str, Any]:
    from engram.sizing.weights import config_weights

    config, counts = sizing.config, sizing.counts
    model_params = None if backbone is None else backbone.params
    whole = counts.total_params + (model_params or 0)
    parts = config_weights(counts, config.table_dtype)
    return {
        "schema": SCHEMA,
        "model": None if backbone is None else backbone.name,
        "layout": config.layout,
        "model_params": model_params,
        "budget_params": sizing.budget_params,
        "fits": None if sizing.budget_params is None else True,
        "k": sizing.k,
        "k_fill": sizing.k_fill,
        "seed_rule_k": sizing.seed_rule_k,
        "engram_vocab_size": config.engram_vocab_size,
        "engram_table_size": config.engram_table_size,
        "rows_per_head": config.rows_per_head,
        "row_width": config.row_width,
        "layers": [layer.to_dict() for layer in counts.layers],
        "table_params": counts.table_params,
        "dense_params": counts.dense_params,
        "total_params": counts.total_params,
        "slack_params": sizing.slack_params,
        "share_of_whole": None if model_params is None else counts.total_params / whole,
        "table_dtype": config.table_dtype,
        "table_bytes": sum(part.size_bytes for part in parts if part.group == "table"),
        "total_bytes": sum(part.size_bytes for part in parts),
    }


def _show(
    console: Console,
    sizing: Sizing,
    payload: dict[str, Any],
    model: str | None,
    per: str,
    emit: Path | None,
) -> None:
    from rich.table import Table

    config, counts = sizing.config, sizing.counts
    facts = Table.grid(padding=(0, 2))
    if payload["model"] is not None:
        facts.add_row("model", f"{payload['model_params']:,} parameters", payload["model"])
    if sizing.budget_params is not None:
        of = payload["model_params"]
        part = "" if of is None else f"{sizing.budget_params / (sizing.budget_params + of):.2%}"
        facts.add_row(
            "budget", f"{sizing.budget_params:,} parameters", part and f"{part} of the whole"
        )
        used = config.engram_table_size[0] / config.engram_vocab_size
        whole = f"whole k {sizing.k}; " if used != sizing.k else ""
        filling = f"{sizing.k_fill:.4g} fills the budget (--fill 1)"
        facts.add_row("k", f"{used:.6g}", f"{whole}{filling}; seed's rule {sizing.seed_rule_k}")
    elif sizing.k is not None:
        facts.add_row("k", f"{sizing.k:.6g}")
    facts.add_row("rows per ORDER", _each(config.engram_table_size), "nominal: engram_table_size")
    facts.add_row(
        "rows per HEAD",
        _each(config.rows_per_head),
        f"nominal: an order's rows / {config.n_head_per_ngram} heads",
    )
    facts.add_row(
        "row width",
        f"{config.row_width}",
        f"x {counts.n_columns} rows = a token's memory of {config.memory_width}",
    )
    primes = [prime for layer in counts.layers for order in layer.primes for prime in order]
    facts.add_row(
        "primes", f"{min(primes):,} to {max(primes):,}", f"{len(primes)} heads, all different"
    )
    facts.add_row("tables", f"{counts.table_params:,} parameters")
    facts.add_row("dense parts", f"{counts.dense_params:,} parameters")
    rest = [] if sizing.slack_params is None else [f"{sizing.slack_params:,} of the budget left"]
    if payload["share_of_whole"] is not None:
        rest.insert(0, f"{payload['share_of_whole']:.2%} of the whole")
    facts.add_row("total", f"{counts.total_params:,} parameters", ", ".join(rest))
    facts.add_row(
        "bytes",
        format_bytes(payload["total_bytes"]),
        f"tables {format_bytes(payload['table_bytes'])} in {config.table_dtype}",
    )
    console.print(facts)
    if payload["corpus"] is not None:
        from engram_cli.size_corpus import show_corpus

        show_corpus(console, payload["corpus"])
    console.print()
    console.print(_layer_table(sizing, per))
    name = model or "MODEL"
    file = "engram.yaml" if emit is None else str(emit)
    if emit is None:
        console.print(f"\nNext: the same with --emit {file}, then")
    else:
        console.print("\nNext:")
    console.print(f"  engram attach {name} -c {file} -o FOLDER")


def _each(sizes: list[int]) -> str:
    """One number where all orders have the same."""
    return f"{sizes[0]:,}" if len(set(sizes)) == 1 else ", ".join(f"{size:,}" for size in sizes)


def _layer_table(sizing: Sizing, per: str) -> Any:
    from rich.table import Table

    orders = sizing.config.orders
    if per == "head":
        table = Table("layer", "order", "rows of each HEAD (primes)", box=None, pad_edge=False)
        for layer in sizing.counts.layers:
            for order, primes in zip(orders, layer.primes, strict=True):
                table.add_row(str(layer.layer_id), str(order), " ".join(map(str, primes)))
        return table
    table = Table("layer", box=None, pad_edge=False)
    for heading in (
        *(f"rows of ORDER {order}" for order in orders),
        "rows stored",
        "table",
        "dense",
    ):
        table.add_column(heading, justify="right")
    for layer in sizing.counts.layers:
        numbers = (*map(sum, layer.primes), layer.rows, layer.table_params, layer.dense_params)
        table.add_row(str(layer.layer_id), *(f"{number:,}" for number in numbers))
    return table
