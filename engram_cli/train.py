"""`engram train`: trains the memory of a model, and writes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engram.config.init import Init
from engram.corpus.text.text_options import TextOptions
from engram.errors import UsageError
from engram.training.control_names import ControlName
from engram.training.train_options import Schedule, TableOptimizer, Trained, TrainOptions
from engram.units import plural
from engram_cli.options import (
    OUTPUT,
    TEXT,
    ConfigOption,
    LinkOption,
    OutputOption,
    OverwriteOption,
    PlotOption,
    ResumeOption,
    RevisionOption,
    TrustRemoteCodeOption,
    taking,
)
from engram_cli.output import Output, silence_transformers
from engram_cli.pictures import check_plot, write_plot
from engram_cli.text_source import one_text
from engram_cli.values import given_flags, given_words, read_count, read_named

if TYPE_CHECKING:
    from engram.config.engram_config import EngramConfig
    from engram.training.new_base import NewBase


def _number(text: str, **more: Any) -> Any:
    return typer.Option(help=text, **more)


def _count(text: str) -> Any:
    return typer.Option(metavar="COUNT", parser=read_count, help=text)


# The fields of `TrainOptions`, but for the trainer's arguments.
_TRAIN = {
    "train": Annotated[
        Trained,
        typer.Option(
            help="The memory beside a frozen base; the memory and low-rank adapters, which are "
            "merged into the base at the end; or all weights."
        ),
    ],
    "control": Annotated[
        ControlName | None,
        typer.Option(
            help="Train a control instead: a random table that does not learn; one row a head; an "
            "MLP of as many parameters; the base alone (with --train all). With the same seed, "
            "text and steps it tells what a trained table adds. (Permuting rows at test time does "
            "not: projections fit random rows too.)"
        ),
    ],
    "steps": Annotated[int | None, _count("Steps. Default: the text once.")],
    "tokens": Annotated[int | None, _count("Tokens to train on, as 10M.")],
    "minutes": Annotated[
        float | None, _number("Minutes to train for, about, as a measurement of speed says.")
    ],
    "context": Annotated[int, _number("Tokens of a window.", min=2)],
    "batch": Annotated[int, _number("Windows at a time, on each process.", min=1)],
    "accumulate": Annotated[int, _number("Such batches in a step.", min=1)],
    "lr": Annotated[float, _number("Learning rate of everything but tables.")],
    "table_lr": Annotated[float, _number("Learning rate of tables.")],
    "table_optimizer": Annotated[
        TableOptimizer, typer.Option(help="Rule of tables; the rest is under AdamW.")
    ],
    "weight_decay": Annotated[float, _number("Decay of matrices that are not tables.")],
    "max_grad_norm": Annotated[
        float, _number("Norm that all gradients, of rows too, are clipped to; 0: no clipping.")
    ],
    "warmup": Annotated[float, _number("Share of the steps in which learning rates rise.")],
    "schedule": Annotated[Schedule, typer.Option(help="Course of the learning rates after it.")],
    "held_out": Annotated[float, _number("Share of the documents that are held out.")],
    "held_out_tokens": Annotated[
        int, _count("Tokens of them that are evaluated while it trains; the end takes all.")
    ],
    "evaluate_every": Annotated[
        int | None,
        _count(
            "Steps between evaluations; 0: none. Default: a tenth of the run, or more, so that "
            "they take a fifth of its time at most."
        ),
    ],
    "save_every": Annotated[
        int | None, _count("Steps between checkpoints; 0: none. Default: a tenth of the run.")
    ],
    "keep_checkpoints": Annotated[
        bool, typer.Option("--keep-checkpoints", help="Leave them when the run has ended.")
    ],
    "bf16": Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 (autocast).")],
    "lora_rank": Annotated[int, _number("Rank of the adapters of --train lora.", min=1)],
    "tables": Annotated[
        Literal["ram", "host", "disk"],
        typer.Option(
            help="Where the tables are: with the model; in host memory beside a GPU; in files, "
            "which may be larger than memory."
        ),
    ],
    "seed": Annotated[int, _number("Seed of the order, of dropout, and of a control.", min=0)],
    "held_out_seed": Annotated[
        int, _number("Seed of the held-out part: other seeds keep the same one.", min=0)
    ],
}
_TEXT = {name: TEXT[name] for name in ("split", "text_key", "add_eos")}


@taking(options=_TRAIN, rules=_TEXT, out=OUTPUT)
def train(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[FOLDER|MODEL]",
            help="An attached folder; or a base, which gets a memory first, as attach gives it.",
        ),
    ] = None,
    config: ConfigOption = None,
    *,
    from_config: Annotated[
        Path | None,
        typer.Option(
            "--from-config",
            metavar="YAML",
            help="In their place: a base with random weights, described by a file; all of it is "
            "trained. See examples/tiny-llama.yaml.",
        ),
    ] = None,
    equal_params: Annotated[
        bool,
        typer.Option(
            "--equal-params",
            help="Make that base smaller (its feed-forward parts, or experts), so that it and the "
            "memory have as many parameters as it would have alone.",
        ),
    ] = False,
    text: Annotated[
        Path | None, typer.Option("--text", help="Text to train on: a file or a folder of texts.")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            "--corpus",
            help="Tokens to train on: shards of engram corpus build, or Megatron's, datatrove's, "
            "llm.c's, a data set's.",
        ),
    ] = None,
    options: TrainOptions,
    rules: TextOptions,
    output: OutputOption = None,
    init: Annotated[
        Init,
        typer.Option(help="Start of the memory of a base without one; see attach."),
    ] = "zero-table",
    adapter: Annotated[
        bool,
        typer.Option("--adapter", help="Write the memory alone, to be loaded beside its base."),
    ] = False,
    args: Annotated[
        Path | None,
        typer.Option("--args", help="YAML file with more of transformers' TrainingArguments."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One of them; may be repeated."),
    ] = None,
    link: LinkOption = False,
    revision: RevisionOption = None,
    trust_remote_code: TrustRemoteCodeOption = False,
    plot: PlotOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    out: Output,
) -> None:
    """Train the memory of a model, and write it.

    The backbone is frozen unless --train says otherwise, and a part of the documents is held out.
    Before the first step it says how long it will take, how often it will touch a row, and how far
    rows will move. Checkpoints lie in a folder beside the output, OUTPUT.checkpoints, until it is
    whole: Ctrl-C saves one and ends with 130, and --resume goes on from there to the same result.

    Several processes divide the rows of the tables. Begin the command with accelerate launch -m
    engram train, or for two processes with torchrun --nproc-per-node 2 -m engram train.

    Loggers: --set report_to=tensorboard, or wandb.

    Examples:
        $ engram train ./attached-model --text corpus.txt -o trained --steps 2 --context 32
        $ engram train ./attached-model --corpus tokens -o adapter --adapter --tokens 2K --batch 2
        $ engram train ./attached-model --text corpus.txt -o control --control uniform --steps 2
        $ engram train ./model --text corpus.txt -o new --steps 2 --plot run.png --json
        $ engram train --from-config llama.yaml -c config.yaml --text corpus.txt -o small --steps 2
    """
    if output is None:
        raise UsageError("train needs a folder to write.", "Pass -o FOLDER.")
    if (model is None) == (from_config is None):
        raise UsageError(
            "train needs something to train, and only one: a folder or model, or --from-config.",
            "Give an attached folder, as engram attach writes it.",
        )
    check_plot(plot, overwrite)
    data = one_text("train", "train on", text, corpus, rules.text_key)
    from engram_cli.train_arguments import read_arguments

    options = replace(options, trainer=read_arguments(args, settings or []))
    memory = None if config is None else read_named(out, config)
    words = given_words(ctx)
    silence_transformers()
    base: Any = model
    if from_config is not None:
        if not given_flags(ctx, ["train"]):
            options = replace(options, train="all")
        base = _new_base(out, from_config, memory, equal_params)
    elif equal_params:
        raise UsageError("--equal-params is for --from-config.", "Leave it out.")
    from engram.training.freed_memory import keep_freed_memory
    from engram.training.processes import leave
    from engram.training.train_memory import train as run
    from engram_cli.interrupts import stopping_after_step
    from engram_cli.train_text import Watcher, show

    keep_freed_memory()
    with stopping_after_step(out) as stopping, Watcher(out, stopping, words) as watcher:
        result = run(
            base,
            output,
            data,
            config=memory,
            options=options,
            text=rules,
            init=init,
            adapter=adapter,
            link=link,
            revision=revision,
            trust_remote_code=trust_remote_code,
            overwrite=overwrite,
            resume=resume,
            command=[
                *("engram", "train"),
                *(word for word in words if word not in ("--overwrite", "--resume")),
            ],
            listeners=watcher.listeners(),
        )
    leave()
    if not watcher.is_first:
        raise typer.Exit(130 if result.output is None else 0)
    answer = result.to_dict()
    is_drawn = plot is not None and result.output is not None
    if is_drawn:
        answer["log"] = list(result.log)
    out.result(answer, show(result))
    if plot is not None and is_drawn:
        from engram.pictures.training_plot import plot_training

        source = f"{plural(result.steps, 'step')} on {data}: losses, rows and gates of the run."
        write_plot(out, ctx, plot, plot_training, answer, source, overwrite=overwrite)
    if result.output is None:
        watcher.say_how_to_go_on()
        raise typer.Exit(130)
    watcher.say_next(result)


def _new_base(out: Output, path: Path, memory: EngramConfig | None, is_to_pay: bool) -> NewBase:
    """Read the description of a base, and make it smaller if it is to pay for its memory."""
    from engram.training.new_base import read_new_base
    from engram.training.parameter_trade import equal_params

    spec = read_new_base(path)
    if not is_to_pay:
        return spec
    if memory is None:
        raise UsageError("--equal-params needs the memory's size.", "Give its config with -c.")
    equal = equal_params(spec, memory)
    out.note(str(equal))
    return equal.spec
