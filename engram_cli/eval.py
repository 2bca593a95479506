"""`engram eval`: does a memory help, and where?"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from engram.corpus.text.text_options import TextOptions
from engram.evaluation.eval_options import EvalOptions
from engram_cli.options import (
    OUTPUT,
    TEXT,
    OverwriteOption,
    RevisionOption,
    TokenizerOption,
    TrustRemoteCodeOption,
    taking,
)
from engram_cli.output import Output, silence_transformers
from engram_cli.text_source import text_or_corpus
from engram_cli.values import given_words, read_count


def _count(text: str) -> Any:
    return typer.Option(metavar="COUNT", parser=read_count, help=text)


def _number(text: str, least: int) -> Any:
    return typer.Option(metavar="N", min=least, help=text)


# The fields of `EvalOptions`.
_EVAL = {
    "tokens": Annotated[
        int,
        _count("Tokens to read at most: of what was held out, and again of what was trained on."),
    ],
    "context": Annotated[
        int | None,
        _number("Tokens of a window. Default: the training's, else 512, as the model can read.", 2),
    ],
    "needles": Annotated[
        int,
        _number("Facts to hide in a context of the text and to ask for at its end; 0: none.", 0),
    ],
    "needle_context": Annotated[
        int | None, _number("Tokens of that context. Default: those of a window.", 2)
    ],
    "bootstrap": Annotated[int, _number("Draws of documents for an interval.", 1)],
    "seed": Annotated[
        int, _number("Seed of the order, of permuted rows, of draws and of needles.", 0)
    ],
    "bf16": Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 (autocast).")],
    "batch_tokens": Annotated[int, _number("Tokens of a batch with its padding.", 1)],
}
_TEXT = {name: TEXT[name] for name in ("split", "text_key", "add_eos")}


@taking(options=_EVAL, rules=_TEXT, out=OUTPUT)
def eval(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="FOLDER", help="An attached folder; or the base of an adapter.")
    ],
    adapter: Annotated[
        str | None,
        typer.Argument(metavar="[ADAPTER]", help="A memory by itself, beside its base."),
    ] = None,
    *,
    text: Annotated[
        Path | None, typer.Option("--text", help="Text to read: a file or a folder of texts.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option("--corpus", help="Token shards to read: engram corpus build.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="PATH",
            help="A model to compare with: a control that engram train wrote, another attached "
            "folder, or a model without a memory; may be repeated.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="MODEL", help="The base. Default: that in the folder."),
    ] = None,
    seen: Annotated[
        str | None,
        typer.Option(
            "--seen",
            metavar="PATH",
            help="Text or token shards to count tokens and n-grams in, such as what was trained "
            "on; documents that are evaluated do not count.",
        ),
    ] = None,
    options: EvalOptions,
    rules: TextOptions,
    tables: Annotated[
        Literal["ram", "disk"],
        typer.Option(help="Where the tables are: with the model, or in their files."),
    ] = "ram",
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page, too.")
    ] = None,
    overwrite: OverwriteOption = False,
    tokenizer: TokenizerOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustRemoteCodeOption = False,
    out: Output,
) -> None:
    """Measure whether a memory helps: its loss on, off, permuted, and beside base and controls.

    All runs read the same tokens. Intervals are of a paired bootstrap over documents. Of the text
    that a folder was trained on, what the training held out is read, and beside it as much of what
    it learned from: a memory that memorises is named. Tables follow of the tokens that gain, losses
    by position, and what each layer does.

    Permuted rows harm even a random table, since projections were trained on it: what the table
    learned is known beside a control of engram train --control frozen-random alone.

    Examples:
        $ engram eval ./attached-model --text corpus.txt --context 32 --tokens 1K
        $ engram eval ./attached-model --corpus tokens --against ./model --seen corpus.txt --json
    """
    data = text_or_corpus("eval", text, corpus)
    if html is not None:
        from engram.storage.files import check_file

        check_file(html, overwrite)  # before the work, not after it
    words = [word for word in given_words(ctx) if word != "--overwrite"]
    silence_transformers()
    from engram.evaluation.evaluate_model import evaluate
    from engram_cli.eval_text import show

    with out.progress("Reading", "tokens") as progress:
        found = evaluate(
            model,
            data,
            adapter,
            against=against or (),
            base=base,
            seen=seen,
            options=options,
            text=rules,
            tokenizer=tokenizer,
            revision=revision,
            trust_remote_code=trust_remote_code,
            tables=tables,
            command=shlex.join(["engram", "eval", *words]),
            progress=progress,
        )
    if html is not None:
        from engram.pictures.eval_page import eval_page
        from engram.pictures.page import write_page

        write_page(html, eval_page(found.to_dict()), overwrite=overwrite)
    out.result(found.to_dict(), show(found))
