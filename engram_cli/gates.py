"""`engram gates`: show every gate of a memory at every token of a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engram.corpus.text.text_options import TextOptions
from engram.errors import UsageError
from engram.evaluation.gate_options import GateOptions
from engram_cli.evaluation_options import (
    RULES,
    AdapterFolderOption,
    CorpusOption,
    TablesOption,
    TextOption,
)
from engram_cli.options import (
    OUTPUT,
    HtmlOption,
    OverwriteOption,
    PlotOption,
    RevisionOption,
    TokenizerOption,
    TrustRemoteCodeOption,
    taking,
)
from engram_cli.output import Output, silence_transformers
from engram_cli.pictures import check_html, check_plot, command_line, write_html, write_plot
from engram_cli.text_source import one_text
from engram_cli.values import given_flags, read_count

if TYPE_CHECKING:
    from engram.evaluation import OpenModel


def _count(text: str) -> Any:
    return typer.Option(metavar="COUNT", parser=read_count, help=text)


# The fields of `GateOptions`.
_GATES = {
    "context": Annotated[
        int | None,
        _count("Tokens of a window. Default: 2,048, or as many as the model was made for."),
    ],
    "tokens": Annotated[
        int, _count("Tokens of --text or --corpus to read, of documents in random order.")
    ],
    "top": Annotated[int, typer.Option(help="N-grams to name for each gate.", min=1)],
    "min_count": Annotated[
        int, typer.Option(help="Times that an n-gram has to occur to be named.", min=1)
    ],
    "seed": Annotated[int, typer.Option(help="Seed of the order of documents.", min=0)],
}


@taking(options=_GATES, rules=RULES, out=OUTPUT)
def gates(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="FOLDER", help="An attached folder; or a base, with --adapter."),
    ],
    words: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="Text, in quotes.")] = None,
    *,
    file: Annotated[
        Path | None, typer.Option("--file", help="In its place: a text file, read as one text.")
    ] = None,
    text: TextOption = None,
    corpus: CorpusOption = None,
    adapter: AdapterFolderOption = None,
    stats: Annotated[
        Path | None,
        typer.Option(
            "--stats",
            metavar="FILE",
            help="What engram hash TEXT -c FOLDER --stats --json printed: adds the load and the "
            "collisions of every head.",
        ),
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Show this layer alone.", min=0)] = None,
    stream: Annotated[int | None, typer.Option(help="Show this stream alone.", min=0)] = None,
    options: GateOptions,
    rules: TextOptions,
    tables: TablesOption = "ram",
    tokenizer: TokenizerOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustRemoteCodeOption = False,
    plot: PlotOption = None,
    html: HtmlOption = None,
    overwrite: OverwriteOption = False,
    out: Output,
) -> None:
    """Show every gate of a memory at every token of a text, and what it does to the loss.

    Tokens have the colours of their gates, for each layer and stream; in a pipe, or with NO_COLOR,
    they are lines of a table. Beside each gate stands the norm of what the memory adds, over that
    of the stream that it is added to: an open gate that adds little does little. The loss is
    measured with the memory on and off. --json, --plot and --html hold all gates, whatever --layer
    and --stream choose; --json and --html also the n-grams and rows that each token reads.

    With --text or --corpus, beside a text or alone, it names the n-grams with the highest mean
    gates, and those after which the memory helps most.

    Examples:
        $ engram gates ./attached-model "Alexander the Great saw the Milky Way"
        $ engram gates ./attached-model "the Milky Way" --html gates.html --plot gates.pdf
        $ engram gates ./attached-model --file corpus.txt --context 64 --layer 1 --json
        $ engram gates ./attached-model --corpus tokens --tokens 2K --top 5
        $ engram gates ./attached-model "the Milky Way" --text corpus.txt --tokens 2K
    """
    if words is not None and file is not None:
        raise UsageError("TEXT and --file exclude each other.", "Give one of them.")
    if words is None and file is None and (plot is not None or text is corpus is None):
        raise UsageError(
            "gates needs a text." if plot is None else "--plot draws the tokens of a text.",
            "Give it in quotes, or with --file FILE.",
        )
    check_plot(plot, overwrite)
    check_html(html, overwrite)
    from engram.evaluation.token_texts import read_whole

    shown = words if file is None else read_whole(file)
    data = None
    if shown is None or text is not None or corpus is not None:
        data = one_text("gates", "read", text, corpus, rules.text_key)
    elif needless := given_flags(ctx, [*RULES, "tokens", "top", "min_count"]):
        raise UsageError(
            f"{' and '.join(needless)} are for --text or --corpus.", "Leave them out, or give one."
        )
    silence_transformers()
    from engram.evaluation import open_model, read_gates
    from engram_cli.gates_text import show

    opened = open_model(
        model,
        adapter,
        tokenizer=tokenizer,
        revision=revision,
        trust_remote_code=trust_remote_code,
        tables=tables,
    )
    _check_chosen(opened, layer, stream)
    with out.progress("Reading", "tokens") as step:
        reading = read_gates(
            opened,
            shown,
            data=data,
            rules=rules,
            stats=stats,
            options=options,
            progress=step,
        )
    answer = reading.to_dict()
    out.result(answer, show(answer, layer, stream, out.has_colors))
    if plot is not None:
        from engram.pictures.gates_plot import plot_gates

        source = f"Gates of {opened.name} at every token of the text."
        write_plot(out, ctx, plot, plot_gates, answer, source, overwrite=overwrite)
    if html is not None:
        from engram.pictures.gate_page import gates_html

        page = gates_html(answer, command=command_line(ctx))
        write_html(out, html, page, overwrite=overwrite)


def _check_chosen(opened: OpenModel, layer: int | None, stream: int | None) -> None:
    layer_ids, streams = sorted(opened.addresses.layer_ids), opened.config.hc_mult
    if layer is not None and layer not in layer_ids:
        raise UsageError(
            f"--layer must be a layer with a memory, got {layer}.",
            f"These have one: {', '.join(map(str, layer_ids))}.",
        )
    if stream is not None and stream >= streams:
        raise UsageError(f"--stream must be below {streams}, the number of streams, got {stream}.")
