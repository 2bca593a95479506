"""`evaluate`: measures a memory on and off, its base and controls, on the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engram.arguments import checked
from engram.corpus.foreign.find_tokens import find_tokens
from engram.corpus.text.text_options import TextOptions
from engram.evaluation.counted_tokens import CountedTokens
from engram.evaluation.eval_notes import needle_notes, notes_of
from engram.evaluation.eval_options import EvalOptions
from engram.evaluation.evaluated_text import EvaluatedText, choose_documents
from engram.evaluation.evaluation import Evaluation, compare_runs
from engram.evaluation.measured_runs import BASE, OFF, ON, OWN_RUNS, MeasuredRuns
from engram.evaluation.needles import Needles, Trial, hide_facts
from engram.evaluation.open_models import OpenModel, Tables, find_others, open_compared, open_model
from engram.evaluation.positions import long_windows, position_buckets
from engram.evaluation.seen_text import Seen, find_seen
from engram.evaluation.token_groups import all_groups
from engram.evaluation.window_tokens import window_tokens
from engram.hf.unwired import base_of
from engram.storage.files import Progress
from engram.training.documents import TrainingDocuments
from engram.training.learned_positions import demand_positions


@checked()
def evaluate(
    model: str | Path,
    data: str | Path,
    adapter: str | Path | None = None,
    *,
    against: Sequence[str | Path] = (),
    base: str | Path | None = None,
    seen: str | Path | None = None,
    options: EvalOptions | None = None,
    text: TextOptions | None = None,
    tokenizer: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    tables: Tables = "ram",
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure the loss of a text with a memory, without it, and of models beside it.

    The runs are ``on``: the model as it is; ``off``: its memory adds nothing; ``permuted``: every
    look-up reads another row of its head; ``base``; and the models of `against`, each by the last
    part of its path. Where the folder states that it was trained on this text, the documents that
    it held out are measured, and beside them as many tokens of those that it learned from.

    A document's loss is that of its tokens from the second on. One that is longer than the context
    is cut into windows, of which the first token is not counted.

    Args:
        model: An attached folder or hub id; with an adapter, its base.
        data: A folder of token shards, or a text (file or folder).
        adapter: A memory by itself, that lies beside its base.
        against: Models to compare with: attached folders, such as controls that were trained on the
            same text, dense controls, or models without a memory.
        base: Model of the run ``base``; the base's weights in the folder when None, unless they
            were trained, too.
        seen: A text, or token shards, to count tokens and n-grams in, such as what was trained on.
            Evaluated documents of it do not count.
        options: How much is read, and how.
        text: How a text is read; as it was for the training, to be recognised as its text.
        tokenizer: The model's tokenizer; its own when None.
        revision: Branch, tag or commit of the model on the hub.
        trust_remote_code: Run the code beside the weights, where a base is defined there.
        tables: Place of the tables, see `engram.load`.
        device: Device of the models; a GPU where there is one, when None.
        progress: Called with the tokens that were read so far, by all runs, and their number.

    Returns:
        The losses; `to_dict()` is what ``engram eval --json`` prints.

    Raises:
        EngramError: A model or text cannot be read, they do not belong together, or the context is
            longer than a model can read.

    Examples:
        >>> from engram.evaluation import EvalOptions, evaluate
        >>> options = EvalOptions(tokens=500, context=32)
        >>> found = evaluate("attached", "corpus.txt", options=options)
        >>> sorted(found.losses.runs)
        ['base', 'off', 'on', 'permuted']
    """
    options = options or EvalOptions()
    others = find_others(base, against, set(OWN_RUNS))
    opened = open_model(
        model,
        adapter,
        tokenizer=tokenizer,
        revision=revision,
        trust_remote_code=trust_remote_code,
        tables=tables,
        device=device,
    )
    documents = TrainingDocuments(data, opened.tokenizer, options=text, held_out_share=None)
    chosen = choose_documents(documents, opened.training, options.tokens, options.seed)
    context = window_tokens(opened, options.context)
    demand_positions(opened.model, options.needle_context or 0, "needle_context")
    counted = CountedTokens(chosen.main, context, opened.tokenizer)
    found: Seen | None = None
    seen_notes: tuple[str, ...] = ()
    if seen is not None:
        found, seen_notes = _find_seen(seen, counted, chosen, opened, text)
    trials = _trials(opened, chosen, context, options)
    own_base = base is None and not opened.base_was_trained
    measured = MeasuredRuns(
        counted,
        _learned(chosen, context, opened),
        trials,
        options,
        [*OWN_RUNS, *([BASE] if own_base else []), *others],
        progress,
    )
    measured.measure_memory(opened.model)
    if own_base:
        measured.measure(BASE, base_of(opened.model))
    for name, path in others.items():
        other = open_compared(path, opened, trust_remote_code=trust_remote_code, tables=tables)
        demand_positions(other, context)
        if name == BASE:
            longest = max((len(trial.ids) for trial in trials), default=0)
            demand_positions(other, longest, "needle_context")
        measured.measure(name, other)
        del other  # before the next one is loaded
    losses = compare_runs(measured.runs, options.bootstrap, options.seed)
    training = None
    if measured.learned_runs:
        training = compare_runs(measured.learned_runs, options.bootstrap, options.seed)
    nats = measured.nats
    long = long_windows([len(window.ids) for window in counted.windows], context)
    needles = Needles.of(trials, measured.needles)
    return Evaluation(
        target=opened.name,
        text=str(data),
        context=context,
        split=chosen.split,
        losses=losses,
        training=training,
        resamples=options.bootstrap,
        groups=all_groups(
            counted, found, nats[ON], nats[OFF], opened.tokenizer, opened.addresses.orders[-1]
        ),
        frequency_source="the evaluated text" if seen is None else str(seen),
        positions=tuple(position_buckets(counted.positions, nats, long.tokens)),
        position_windows=long,
        needles=needles,
        layers=measured.gates.probes(opened.model, opened.training, options.seed),
        notes=(
            *seen_notes,
            *long.notes,
            *needle_notes(needles, options.needle_context),
            *notes_of(losses, training, chosen, opened.training, others),
        ),
    )


def _learned(chosen: EvaluatedText, context: int, opened: OpenModel) -> CountedTokens | None:
    """Return the tokens that the memory learned from; None where they are unknown."""
    if not chosen.training:
        return None
    return CountedTokens(chosen.training, context, opened.tokenizer)


def _find_seen(
    seen: str | Path,
    counted: CountedTokens,
    chosen: EvaluatedText,
    opened: OpenModel,
    text: TextOptions | None,
) -> tuple[Seen, tuple[str, ...]]:
    """Count tokens and n-grams in another text, but for evaluated documents of the same one.

    Returns:
        The counts, and what should be said with them.
    """
    found = find_tokens(seen, None if text is None else text.text_key)
    rules = text if found is None or text is None else found.options_of(text)
    other = TrainingDocuments(seen, opened.tokenizer, options=rules, held_out_share=None)
    left_out: list[int] = []
    if other.sha256 == chosen.documents.sha256:
        is_held_out = chosen.split == "held_out"
        left_out = (chosen.documents.held_out if is_held_out else chosen.numbers).tolist()
    notes = () if other.note is None else (other.note,)
    return find_seen(counted, other, opened.addresses, left_out), notes


def _trials(
    opened: OpenModel, chosen: EvaluatedText, context: int, options: EvalOptions
) -> list[Trial]:
    """Hide facts in the text, if they are asked for."""
    if not options.needles:
        return []
    return hide_facts(
        chosen.main,
        opened.tokenizer,
        options.needles,
        options.needle_context or context,
        options.seed,
    )
