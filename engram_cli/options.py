"""Options that commands share, each with one name, type and help, and objects made of options."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from engram.errors import InputError, UsageError
from engram.layouts.gguf_dialects import engine_names
from engram_cli.values import DTYPES, read_bytes, read_count, read_dtype, reader

# The fields of `Output`.
OUTPUT = {
    "json": Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")],
    "quiet": Annotated[bool, typer.Option("-q", "--quiet", help="No notes and no progress bars.")],
    "verbose": Annotated[bool, typer.Option("-v", "--verbose", help="More notes on stderr.")],
}

ExportedTargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="Config file, template name, attached folder, adapter, folder or safetensors file "
        "with published names, or hub id of one.",
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE|TEMPLATE",
        help="Config file (YAML or JSON), or the name of a template (see `engram config ls`); for "
        "hash also a checkpoint with a memory.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|FOLDER",
        help="Backbone: a name of the built-in catalogue, a folder with config.json, or a hub id.",
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "-t",
        "--tokenizer",
        metavar="NAME|PATH",
        help="Tokenizer: folder, tokenizer.json or hub id. Default: the model's own.",
    ),
]
RevisionOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Branch, tag or commit on the hub.")
]
TrustRemoteCodeOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the Python code that lies beside the model's weights. Read it first.",
    ),
]

OutputOption = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="PATH", help="Where to write the result.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that are already there.")
]
HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write the answer as a page, too: one .html file."),
]
PlotOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw the answer, too: a .png, .svg or .pdf file."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")
]
LinkOption = Annotated[
    bool, typer.Option("--link", help="Hard-link the base's files instead of copying them.")
]

BudgetOption = Annotated[
    int | None,
    typer.Option(
        metavar="COUNT", parser=read_count, help="Parameters for the memory, such as 40M."
    ),
]
KOption = Annotated[
    float | None,
    typer.Option(
        "--k",
        metavar="K",
        help="Instead of a budget: rows per n-gram ORDER as this multiple of the vocabulary.",
    ),
]
ShareOption = Annotated[
    str | None,
    typer.Option(
        metavar="S",
        help="Memory's share of the whole after attaching, as 20%: a budget of S/(1-S) of the "
        "model. Default 0.25, a third of the model.",
    ),
]
MemoryOption = Annotated[
    int | None,
    typer.Option(metavar="SIZE", parser=read_bytes, help="Bytes for tables and modules, as 8GiB."),
]
TableDtypeOption = Annotated[
    str | None,
    typer.Option(
        metavar="DTYPE",
        parser=read_dtype,
        help=f"dtype of the tables: {DTYPES}. Default: as stated, else the base's own.",
    ),
]


_LONGEST_NUMBER = 20  # Python refuses to read thousands of digits


def layer_list(text: str) -> list[int]:
    """Read the value of ``--layers``, such as 1,6.

    Raises:
        InputError: It is not a list of whole numbers.
    """
    words = text.split(",")
    if not all(word.strip().isdecimal() and len(word) < _LONGEST_NUMBER for word in words):
        raise InputError(f"{text!r} is not a list of layers.", "Write it as 1,6.", value=text)
    return [int(word) for word in words]


LayersOption = Annotated[
    Sequence[int] | None,
    typer.Option(metavar="IDS", parser=reader(layer_list), help="Layers from 0, as 1,6."),
]
HeadsOption = Annotated[int, typer.Option(help="Hash heads per order.")]
DimOption = Annotated[int, typer.Option(help="Memory width per order.")]

NumProcOption = Annotated[
    int | None,
    typer.Option(
        "-j",
        "--num-proc",
        min=1,
        help="Processes that tokenise, and threads. Default: one for each core.",
    ),
]
# The fields of `TextOptions`.
TEXT = {
    "split": Annotated[
        Literal["paragraph", "line", "file"] | None,
        typer.Option(
            help="What is one document of a plain text; blank lines end a paragraph. Default: "
            "paragraph. Records are documents as they are."
        ),
    ],
    "text_key": Annotated[
        str | None,
        typer.Option(
            "--text-column",
            metavar="NAME",
            help="Key of the text in JSON records, or column of a .csv, .tsv, .parquet or .arrow. "
            "Default: text. With it stdin is JSON lines. Of a data set also its column of token "
            "ids (default: input_ids).",
        ),
    ],
    "add_eos": Annotated[
        bool | None,
        typer.Option(
            "--eos/--no-eos",
            help="Whether each document ends with the tokenizer's end-of-text token. Default: "
            "--eos; a tokenizer that has none needs --no-eos.",
        ),
    ],
    "shard_tokens": Annotated[
        int, typer.Option("--shard-size", metavar="TOKENS", min=1, help="Tokens that fill a shard.")
    ],
    "on_error": Annotated[
        Literal["stop", "skip"],
        typer.Option(help="Stop at a document that cannot be read, or skip and list it."),
    ],
}
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue what was interrupted; the result is the same.")
]
LoaderOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="ENGINE",
        help="Of a GGUF file: whether the loader of this engine reads it, too; with --repair: mend "
        f"it for that. One of {', '.join(engine_names())}.",
    ),
]
EngineOption = Annotated[
    Literal["local", "ray"],
    typer.Option(
        help="Who works: this machine, or Ray, where a lost worker is replaced; the result is the "
        "same."
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="A Ray cluster's head, or auto on one of its nodes; each has to see the text and the "
        "tokenizer. Default: a Ray on this machine with as many CPUs as -j says.",
    ),
]


@contextmanager
def _naming_flags() -> Iterator[None]:
    """Name the flag of an argument that is refused, as people wrote it."""
    try:
        yield
    except UsageError as error:
        name = error.details.get("argument")
        if not isinstance(name, str):
            raise
        flag = f"--{name.replace('_', '-')}"
        raise UsageError(error.message.replace(name, flag, 1), error.hint, options=[flag]) from None


def taking(**declared: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Have the command line make the object that a parameter of a command is.

    Args:
        **declared: By name of the command's parameter: the options to make it of, as `Annotated`
            types by name of an argument of its class. Their defaults are the class's.

    Returns:
        A decorator; what it returns has the options where the parameter was.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        classes = {name: signature.parameters[name].annotation for name in declared}

        @wraps(command)
        def run(**values: Any) -> None:
            with _naming_flags():
                made = {
                    name: kind(**{option: values.pop(option) for option in declared[name]})
                    for name, kind in classes.items()
                }
            command(**values, **made)

        options = []
        for name, parameter in signature.parameters.items():
            if name not in declared:
                options.append(parameter)
                continue
            known = inspect.signature(classes[name]).parameters
            options += [known[key].replace(annotation=it) for key, it in declared[name].items()]
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[option.replace(kind=option.KEYWORD_ONLY) for option in options]
        )
        return run

    return decorate
