"""`engram eval`: does a memory help, and where?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from engram.corpus.text.text_options import TextOptions
from engram.evaluation.eval_options import EvalOptions
from engram_cli import evaluation_options as given
from engram_cli import options as shared
from engram_cli.output import Output, silence_transformers
from engram_cli.pictures import check_html, command_line, write_html
from engram_cli.text_source import one_text
from engram_cli.values import read_count


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
    "context": given.ContextOption,
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


@shared.taking(options=_EVAL, rules=given.RULES, out=shared.OUTPUT)
def eval(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="FOLDER", help="An attached folder; or a base, with --adapter."),
    ],
    *,
    text: given.TextOption = None,
    corpus: given.CorpusOption = None,
    adapter: given.AdapterFolderOption = None,
    against: given.AgainstOption = None,
    base: given.BaseOption = None,
    seen: Annotated[
        str | None,
        typer.Option(
            "--seen",
            metavar="PATH",
            help="Text or tokens to count tokens and n-grams in, such as what was trained "
            "on; documents that are evaluated do not count.",
        ),
    ] = None,
    options: EvalOptions,
    rules: TextOptions,
    tables: given.TablesOption = "ram",
    html: shared.HtmlOption = None,
    overwrite: shared.OverwriteOption = False,
    tokenizer: shared.TokenizerOption = None,
    revision: shared.RevisionOption = None,
    trust_remote_code: shared.TrustRemoteCodeOption = False,
    out: Output,
) -> None:
    """Measure whether a memory helps: its loss on, off, permuted, and beside base and controls.

    All runs read the same tokens. Intervals are of a paired bootstrap over documents. Of the text
    that a folder was trained on, what the training held out is read, and beside it as much of what
    it learned from, and the answer says whether the memory memorises. Further tables show which
    tokens gain, the loss by position in the window, and what each layer does.

    Permuted rows harm even a random table, since projections were trained on it: what the table
    learned is known beside a control of engram train --control frozen-random alone.

    Examples:
        $ engram eval ./attached-model --text corpus.txt --context 32 --tokens 1K
        $ engram eval ./attached-model --corpus tokens --against ./model --seen corpus.txt --json
    """
    data = one_text("eval", "read", text, corpus, rules.text_key)
    check_html(html, overwrite)
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
            progress=progress,
        )
    answer = found.to_dict()
    out.result(answer, show(found))
    if html is not None:
        from engram.pictures.eval_page import eval_html

        page = eval_html(answer, command=command_line(ctx))
        write_html(out, html, page, overwrite=overwrite)
