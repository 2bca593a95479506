"""Makes a config from a template: fitted to a backbone, sized, and with single keys changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engram.arguments import checked
from engram.backbone import Backbone, given_backbone
from engram.config.config_file import read_values
from engram.config.engram_config import EngramConfig
from engram.config.templates import template_path
from engram.config.tokenizer_path import given
from engram.errors import ConfigError, UsageError
from engram.sizing.budget import count_rows, share_budget
from engram.sizing.plan import Limits, Planner
from engram.sizing.run_options import RunOptions
from engram.sizing.shape import check_layers, memory_shape


@checked()
def new_config(
    template: str | None = None,
    *,
    model: str | Path | Backbone | None = None,
    k: float | None = None,
    budget: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> EngramConfig:
    """Make a config from a template with the given changes.

    Args:
        template: Name of the template; None for the shape that `engram.size` gives a model, a
            quarter of the whole where no size is given.
        model: Base model to fit to, see `engram.load_backbone`: its hidden size, streams,
            vocabulary, tokenizer and token ids, and its layers 1 and half the depth (the first of
            them alone where the template has one layer). Without a size, the template's rows per
            order are kept as a multiple of the vocabulary.
        k: Rows per order as a multiple of the vocabulary.
        budget: Instead, parameters that the whole memory fills.
        settings: Values by config key; they come last and win.

    Returns:
        The config; `engram.write_config` writes it as a file with comments. `to_dict()` is the
        `config` that ``engram config new --json`` prints.

    Raises:
        ConfigError: The result is not a valid config; it has all problems.
        LayoutError: The backbone does not have a layer that reads the memory.
        DoesNotFitError: Not even the smallest tables fit the budget.
        UsageError: More than one size is given, or neither template nor model.

    Examples:
        >>> import engram
        >>> engram.new_config("gpt2", k=5, settings={"layer_ids": [1, 5]}).engram_table_size
        [251285, 251285]
    """
    backbone = given_backbone(model)
    settings = dict(settings or {})
    by = [name for name, value in {"k": k, "budget": budget}.items() if value is not None]
    by += [f"set {key}" for key in ("k", "engram_table_size") if key in settings]
    if len(by) > 1:
        raise UsageError(f"The table size is given more than once: by {', '.join(by)}.")
    if isinstance(settings.get("tokenizer"), str):
        settings["tokenizer"] = given(settings["tokenizer"])
    values = _template_values(template, backbone)
    if template is None and backbone is not None and not by:
        budget = share_budget(backbone.params)
    if k is not None:
        settings["k"] = k
    if "k" in settings:
        del values["engram_table_size"]
    try:
        config = EngramConfig.from_dict({**values, **settings})
    except ConfigError as error:
        source = f"template {template} with what was changed" if template else "the model's config"
        raise ConfigError(error.problems, source, error.hint) from None
    if backbone is not None:
        check_layers(backbone, config.layer_ids)
    if budget is None:
        return config
    limits = Limits(params=budget)
    plan = Planner(shape=config, backbone=backbone, options=RunOptions(), limits=limits).largest()
    return count_rows(config, plan.rows_per_order).config


def _template_values(template: str | None, backbone: Backbone | None) -> dict[str, Any]:
    """Read a template and fit it to a model; without one, take the shape for the model."""
    if template is None:
        if backbone is None:
            raise UsageError(
                "A config needs a template or a model.",
                "engram config ls lists the templates; --model MODEL sizes a memory for a model.",
            )
        return memory_shape(backbone).to_dict()
    values = read_values(template_path(template))
    if backbone is None:
        return values
    shape = memory_shape(backbone, layout=values["layout"])
    return {
        **values,
        "tokenizer": shape.tokenizer,
        "hidden_size": shape.hidden_size,
        "engram_vocab_size": shape.engram_vocab_size,
        "engram_table_size": [
            round(rows / values["engram_vocab_size"] * shape.engram_vocab_size)
            for rows in values["engram_table_size"]
        ],
        "layer_ids": shape.layer_ids[: len(values["layer_ids"])],
        "hc_mult": shape.hc_mult,
        "pad_id": backbone.eos_token_id if shape.pad_id is None else shape.pad_id,
        "eos_id": shape.eos_id,
    }
