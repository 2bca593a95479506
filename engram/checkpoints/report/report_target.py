"""The subject of a report: a config or template, or a checkpoint here or on the hub."""

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from engram.backbone import Backbone, given_backbone
from engram.backbone.find_backbone import find_in_catalogue
from engram.config.engram_config import EngramConfig
from engram.config.table_dtype import TableDtype, loading_note
from engram.config.templates import CONFIG_SUFFIXES, is_template, load_config, template_names
from engram.errors import ConfigError, MissingFileError, UsageError
from engram.sizing.run_options import ReportOptions
from engram.sizing.shape import check_backbone
from engram.sizing.weights import BASE_DTYPE, Contents, base_alone, base_weights, weigh
from engram.storage.dtypes import dtype_name
from engram.storage.gguf_on_hub import HubGguf


def find_target(
    target: str | Path | EngramConfig,
    *,
    model: str | Path | Backbone | None,
    options: ReportOptions,
    revision: str | None,
) -> Contents:
    """Find out what is meant, and what it consists of; see `report`."""
    dtype = options.dtype
    if isinstance(target, EngramConfig):
        return _config(target, model, options)
    name = str(target)
    from engram.checkpoints.published.recognise import is_hub_id

    path = Path(target)
    if not (path.exists() or is_template(target) or model or revision):
        base = find_in_catalogue(name)
        if base is not None:
            return base_alone(base, base_weights(base))
    from engram.checkpoints.read.find_gguf import find_gguf

    place = None if is_template(target) else find_gguf(target, revision)
    if place is not None:
        return _gguf(place, model, options, revision)
    is_state = path.is_file() and path.suffix == ".safetensors"
    is_checkpoint = path.is_dir() or is_state or (is_hub_id(name) and not path.exists())
    if is_checkpoint and not is_template(target):
        return _checkpoint(name, model, dtype, revision)
    if revision is not None:
        raise UsageError(f"{target} is not a checkpoint on the hub: leave --revision out.")
    try:
        config = load_config(target)
    except MissingFileError:
        if model is not None and find_in_catalogue(name) is not None:
            raise UsageError(f"{target} is a base model itself: leave --model out.") from None
        raise _nothing(name) from None
    return _config(config, model, options)


def _config(
    config: EngramConfig, model: str | Path | Backbone | None, options: ReportOptions
) -> Contents:
    from engram.sizing.counts import count_params

    backbone, counts = given_backbone(model), count_params(config)
    stored, weights = weigh(counts, backbone, options.dtype)
    notes = [f"tables in {stored}"]
    if stored.name != stored.around:
        notes.append(f"dense parts of the memory in {stored.around} (nominal)")
    if backbone is None:
        if options.base_bytes is None:
            notes.append("without the base model: --model adds it, or --base-bytes its size")
    else:
        notes += _misfits(config, backbone)
        loaded = loading_note(stored.name, backbone.float_dtype or BASE_DTYPE)
        notes += [] if loaded is None else [loaded]
        stated = "as its config says" if backbone.dtype else "assumed"
        notes.append(
            f"{backbone.name} in {weights[-1].dtype}, {stated}, without quantisation scales"
        )
    return Contents(
        kind="config",
        layout=config.layout,
        title=config.rules.title,
        config=config,
        hash_rows={layer.layer_id: layer.hash_rows for layer in counts.layers},
        weights=tuple(weights),
        notes=tuple(notes),
        backbone=backbone,
    )


def _nothing(target: str) -> MissingFileError:
    """The error for a target that is none of the things that it could be."""
    from engram.backbone.find_backbone import catalogue_names

    if Path(target).name != target or Path(target).suffix in CONFIG_SUFFIXES:
        hint = "Check the path; engram config ls lists the templates."
        return MissingFileError.at(target, hint, target=target)
    models = (name.rpartition("/")[2].lower() for name in catalogue_names())
    names = dict.fromkeys([*template_names(), *models])
    near = get_close_matches(target.lower(), names, n=3)
    return MissingFileError(
        f"{target} is neither a template, nor a file or folder here, nor the id of a checkpoint on "
        "the hub (organisation/name).",
        f"Did you mean {' or '.join(near)}?" if near else "engram config ls lists the templates.",
        target=target,
        near=near,
    )


def _gguf(
    place: Path | HubGguf,
    model: str | Path | Backbone | None,
    options: ReportOptions,
    revision: str | None,
) -> Contents:
    from engram.checkpoints.gguf.gguf_contents import inspect_gguf

    of_hub = {"--revision": revision} if isinstance(place, Path) else {}
    asked = {"--model": model, **of_hub, "--dtype": options.dtype}
    if flags := [flag for flag, value in asked.items() if value is not None]:
        raise UsageError(f"{place} is a GGUF file: leave {' and '.join(flags)} out.")
    if options.mode == "training":
        raise UsageError(
            f"{place} is a GGUF file, which engines read and nothing trains.",
            "Count the training of the checkpoint that it was made from.",
        )
    return inspect_gguf(place)


def _checkpoint(
    target: str, model: str | Path | Backbone | None, dtype: str | None, revision: str | None
) -> Contents:
    from engram.checkpoints.read.inspect import inspect_checkpoint

    found = inspect_checkpoint(target, revision)
    backbone = given_backbone(model)
    if backbone is not None:
        if found.kind != "adapter" or found.config is None:
            raise UsageError(f"{target} has its base model: leave --model out.")
        found = replace(
            found,
            weights=(*found.weights, base_weights(backbone)),
            notes=(f"beside {backbone.name}", *_misfits(found.config, backbone)),
            backbone=backbone,
        )
    if dtype is None:
        note = "bytes of weights as the safetensors headers say"
        return replace(found, notes=(note, *found.notes))
    stored = TableDtype(dtype_name(dtype), "asked")
    names = {"table": stored.name, "dense": stored.around}
    weights = tuple(
        replace(part.cast(names[part.group]), kind="nominal") if part.group in names else part
        for part in found.weights
    )
    note = f"the memory as if it were stored in {stored.name}"
    return replace(found, weights=weights, notes=(note, *found.notes))


def _misfits(config: EngramConfig, backbone: Backbone) -> list[str]:
    """Say why a memory cannot be attached to a model, if it cannot."""
    try:
        check_backbone(config, backbone, "the memory")
    except ConfigError as error:
        reasons = "; ".join(f"{problem.key} {problem.message}" for problem in error.problems)
        return [f"this memory cannot be attached to {backbone.name}: {reasons}"]
    return []
