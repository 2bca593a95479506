"""`engram depth`: does the memory relieve early layers? Logit lens and CKA against the base."""

from __future__ import annotations

from typing import Annotated

import typer

from engram.corpus.text.text_options import TextOptions
from engram.evaluation.depth_options import DepthOptions
from engram.units import plural
from engram_cli import evaluation_options as given
from engram_cli import options as shared
from engram_cli.output import Output, silence_transformers
from engram_cli.pictures import check_plot, write_plot
from engram_cli.text_source import one_text
from engram_cli.values import read_count

# The fields of `DepthOptions`.
_DEPTH = {
    "tokens": Annotated[
        int,
        typer.Option(metavar="COUNT", parser=read_count, help="Tokens to read, at most."),
    ],
    "context": given.ContextOption,
    "nearest": Annotated[
        int, typer.Option(min=1, help="Layers of the base that an effective depth averages.")
    ],
    "seed": Annotated[
        int, typer.Option(min=0, help="Seed of the order of documents and of minibatches.")
    ],
}


@shared.taking(options=_DEPTH, rules=given.RULES, out=shared.OUTPUT)
def depth(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="FOLDER", help="An attached folder, trained, or a hub id.")
    ],
    *,
    text: given.TextOption = None,
    corpus: given.CorpusOption = None,
    options: DepthOptions,
    rules: TextOptions,
    adapter: given.AdapterFolderOption = None,
    base: given.BaseOption = None,
    against: given.AgainstOption = None,
    tables: given.TablesOption = "ram",
    tokenizer: shared.TokenizerOption = None,
    revision: shared.RevisionOption = None,
    trust_remote_code: shared.TrustRemoteCodeOption = False,
    plot: shared.PlotOption = None,
    overwrite: shared.OverwriteOption = False,
    out: Output,
) -> None:
    """Compare the layers of a model with a memory with those of its base.

    Logit lens: the divergence of the prediction after each layer from the last one. Effective
    depth: the layers of the base that each layer resembles, by CKA. Both are the analysis of arXiv
    2601.07372, section 6.1, estimated over the tokens of a text. Of the text that trained the
    memory, documents that were held out are read.

    Examples:
        $ engram depth ./attached-model --text corpus.txt --tokens 500 --context 32
        $ engram depth ./attached-model --corpus tokens --tokens 500 --against ./model --json
        $ engram depth ./attached-model --text corpus.txt --tokens 500 --plot depth.png
    """
    check_plot(plot, overwrite)
    data = one_text("depth", "read", text, corpus, rules.text_key)
    silence_transformers()
    from engram.evaluation import measure_depth
    from engram_cli.depth_text import show

    with out.progress("Reading", "tokens") as step:
        found = measure_depth(
            model,
            data,
            adapter,
            against=against or [],
            base=base,
            options=options,
            text=rules,
            tokenizer=tokenizer,
            revision=revision,
            trust_remote_code=trust_remote_code,
            tables=tables,
            progress=step,
        )
    answer = found.to_dict()
    out.result(answer, show(found))
    if plot is not None:
        from engram.pictures.depth_plot import plot_depth

        source = f"Estimated over {plural(found.tokens, 'token')} of {data}."
        write_plot(out, ctx, plot, plot_depth, answer, source, overwrite=overwrite)
