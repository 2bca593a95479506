"""`engram lookup`: list the rows that a text reads from a stored memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import engram
from engram.units import plural
from engram_cli.options import (
    OUTPUT,
    ConfigOption,
    RevisionOption,
    TokenizerOption,
    taking,
)
from engram_cli.output import Output, Shown, Table
from engram_cli.values import read_named

if TYPE_CHECKING:
    from engram.checkpoints.read.lookup import LayerLookup, Ngram, TextLookup


@taking(out=OUTPUT)
def lookup(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="An attached folder, an adapter, a folder or safetensors file with published "
            "names; or a GGUF file, or hub id of one (organisation/name/file.gguf).",
        ),
    ],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text, in quotes.")],
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    revision: RevisionOption = None,
    *,
    out: Output,
) -> None:
    """Show the table rows that a text reads: ids, norms, and n-grams that share rows.

    Only those rows are read from the files: no model is loaded, and tables may be larger than
    memory. Row ids count within the layer's whole table; --json also gives those within each head.
    Of a GGUF file the constants are those that it states, and rows are decoded as its engine does;
    the tokenizer is its own, unless -t names one.

    Examples:
        $ engram lookup ./attached-model "Alexander the Great saw the Milky Way"
        $ engram lookup ./attached-model "the Milky Way" --json
        $ engram lookup model.gguf "the Milky Way" -t ./model
    """
    found = engram.look_up(
        target,
        text,
        config=None if config is None else read_named(out, config),
        tokenizer=tokenizer,
        revision=revision,
    )
    out.result(found.to_dict(), _show(found))
    for note in found.notes:
        out.note(note)


def _show(found: TextLookup) -> Shown:
    for layer in found.layers:
        yield (
            f"Layer {layer.layer_id}: {layer.rows_read:,} of {plural(layer.table_rows, 'row')} "
            f"({found.table_dtype})"
        )
        yield _table(found, layer)
        for shared in layer.shared:
            readers = ", ".join(f"{ngram.text!r} at {_places(ngram)}" for ngram in shared.ngrams)
            yield f"Shared: row {shared.row} (order {shared.order}, head {shared.head}): {readers}"
        if layer is not found.layers[-1]:
            yield ""
    for order, ngrams in found.repeated.items():
        for ngram in ngrams:
            yield f"Repeated: {ngram.text!r} (order {order}) at {_places(ngram)}"


def _table(found: TextLookup, layer: LayerLookup) -> Table:
    # A row and its norm form one word of fixed width, so that folded lines keep their columns.
    words = [
        [f"{row}:{norm:.3g}" for row, norm in zip(rows, norms, strict=True)]
        for rows, norms in zip(
            layer.rows.reshape(-1, layer.rows.shape[-1]).tolist(),
            layer.norms.reshape(-1, layer.norms.shape[-1]).tolist(),
            strict=True,
        )
    ]
    width = max(len(word) for line in words for word in line)
    lines, cells = iter(words), []
    for position, token in enumerate(found.tokens):
        head: tuple[object, ...] = (position, token.token_id, repr(token.text))
        for order in found.orders:
            cells.append((*head, order, " ".join(word.ljust(width) for word in next(lines))))
            head = ("", "", "")
    headings = ("position", "id", "token", "order", "row:norm of each head")
    return Table(cells, headings, left=headings)


def _places(ngram: Ngram) -> str:
    return ", ".join(map(str, ngram.positions))
