"""Checks that need the weights: is every way of running the same, and does the memory count?"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - this module is itself imported only when needed
from torch import Tensor  # noqa: TID253

from engram.backbone.quantisation import quantisation_method
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.load_checkpoint import load_opened
from engram.checkpoints.verify.image_ways import IMAGE_GENERATING, IMAGE_READING
from engram.checkpoints.verify.ways import GENERATING, READING, Way, plain
from engram.checks import Check, Verdict, is_about_files
from engram.errors import EngramError
from engram.hf.admission import of_the_base
from engram.hf.header_loading import without_bars
from engram.hf.multimodal import placeholder_ids
from engram.hf.quantising import dequantise, has_quantised_weights, reason_not_loaded
from engram.hf.unwired import base_of
from engram.nn import MultiHeadEmbedding
from engram.tensor_names import SCALE, TABLE, layer_and_part
from engram.units import format_bytes

# Largest difference of logits that counts as equal, as a share of the largest logit.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10, "bfloat16": 6e-2, "float16": 1e-2}
_COARSE = TOLERANCE["bfloat16"]
# Of models in float64 that compute some steps in float32, whatever their weights are.
_IN_FLOAT64 = 1e-6
_TOKENS = 24
# Rows that stand in for those that are zero: a prime, so that neighbours get different ones.
_STAND_INS = 1009
# What models raise where something does not work.
_FAILURES = (
    *(EngramError, RuntimeError, ValueError, TypeError, LookupError, AttributeError),
    *(AssertionError, ImportError),
)


def behaviour_checks(memory: Checkpoint, trust_remote_code: bool = False) -> Iterator[Check]:
    """Load an attached checkpoint and compare its ways of running.

    The checkpoint's own memory may be zero, which would hide every mistake; so the dense weights
    of the memory, and rows of its tables that are zero, are first replaced, in RAM only, by random
    values. Where RAM allows it the model is loaded in float32, so that a difference is a mistake
    and not rounding.

    A model whose base is quantised keeps its dtype. How its projections round depends on what else
    is in the batch; so they are turned into floats before ways of running are compared. Where the
    method cannot do that, a small difference says nothing, and a large one is not judged.

    The memory is judged, not the base: what the base alone cannot do either does not fail.

    Args:
        memory: An attached checkpoint, whose files are here.
        trust_remote_code: Whether code beside its weights may run.

    Yields:
        A check at a time.

    Raises:
        MissingError: A package that the base needs is not installed, or in a version that does not
            work.
    """
    try:
        model, why_not = _load(memory, trust_remote_code)
    except (EngramError, OSError) as error:
        if not is_about_files(error):
            raise
        yield Check("load", False, _first_line(error))
        return
    if model is None:
        yield Check("load", None, why_not)
        return
    dtype, method = _dtype_name(model), quantisation_method(memory.model_config)
    stored = "" if method is None else f", as stored: its base is quantised ({method})"
    yield Check("load", True, f"{type(model).__name__} in {dtype}{stored}")
    vocab = min(model.engram_addresses.raw_vocab_size, model.config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab, (1, _TOKENS), generator=generator)
    # Without an image there are no tokens of one: the first id is text in every vocabulary.
    for token_id in placeholder_ids(model.config):
        ids = ids.masked_fill(ids == token_id, 0)
    base = cache(lambda: base_of(model))
    with torch.no_grad():
        finite, raised = _judge("finite", partial(_is_finite, ids), model, base)
        yield replace(finite, name="forward") if raised else finite
        if raised or finite.ok is None:  # NaN equals nothing, itself included
            return
        own = plain(model, ids).logits
        randomise(model, generator)
        difference = float((plain(model, ids).logits - own).abs().max())
        yield Check(
            "memory responds",
            difference > 0,
            f"other memory weights change the logits by up to {difference:.3g}",
        )
        # A weight of 4 bits may come to have 32.
        widened_bytes = 8 * memory.files.size_bytes if has_quantised_weights(model) else 0
        exact = widened_bytes < _available_bytes() and dequantise(model)
        yield from _compare_ways(model, ids, exact, base)


def _compare_ways(model: Any, ids: Tensor, exact: bool, base: Callable[[], Any]) -> Iterator[Check]:
    """Compare every way of running with the plain one.

    Args:
        model: The model.
        ids: A text ``[1, T]``.
        exact: Whether a difference is a mistake, or may be how quantised weights round.
        base: Returns its base.
    """
    dtype, ways = _dtype_name(model), {**READING, **GENERATING}
    if model.engram_multimodal:
        # After those of text alone: some models remember where their last image was.
        ways |= {**IMAGE_READING, **IMAGE_GENERATING}
    for name, way in ways.items():
        generates = name in GENERATING or name in IMAGE_GENERATING
        if generates and not (exact and dtype in ("float32", "float64")):
            how = dtype if exact else "quantised weights"
            yield Check(name, None, f"in {how} rounding alone changes tokens")
            continue
        agree = partial(_agree, way, ids)
        tolerance = TOLERANCE[dtype] if exact else None
        found, raised = _judge(name, partial(agree, tolerance), model, base)
        if exact and dtype == "float32" and not (found.ok or raised):
            found = _judge_in_float64(found, agree, model, base)
        yield found


def _dtype_name(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")


def _judge_in_float64(
    found: Check, agree: Callable[[float | None, Any], Verdict], model: Any, base: Callable[[], Any]
) -> Check:
    """Tell a mistake from rounding, where a way of running disagrees in float32.

    Args:
        found: The check in float32.
        agree: Compares, given a tolerance and a model.
        model: The model in float32, which it is again afterwards.
        base: Returns its base, which shares its weights.

    Returns:
        The check in float64; the one in float32 where RAM has no room, or that says nothing.
    """
    if 2 * sum(it.numel() * it.element_size() for it in model.parameters()) >= _available_bytes():
        return found
    models = (model, base())
    try:
        for it in models:
            it.double()
        again, _ = _judge(found.name, partial(agree, _IN_FLOAT64), model, base)
    finally:
        for it in models:
            it.float()
    if again.ok is None:
        return found
    return replace(again, detail=f"in float64: {again.detail}; in float32: {found.detail}")


def _load(memory: Checkpoint, trust_remote_code: bool) -> tuple[Any, str]:
    """Return the model, in float32 if that fits; None and the reason when it is not loaded."""
    if memory.base.code is not None and not trust_remote_code:
        return None, "loading it would run code in its folder (--trust-remote-code)"
    stored_bytes = memory.files.size_bytes
    free_bytes = _available_bytes()
    if stored_bytes > free_bytes:
        return None, (
            f"the weights take {format_bytes(stored_bytes)}, {format_bytes(free_bytes)} of RAM are "
            "free"
        )
    reason = reason_not_loaded(memory.model_config)
    if reason is not None:
        return None, reason
    # Half-precision weights double; a quantiser may do other things in another dtype.
    fits_wide = 2 * stored_bytes < free_bytes and quantisation_method(memory.model_config) is None
    dtype = torch.float32 if fits_wide else "auto"
    with of_the_base(memory.folder or Path(memory.name), "load"), without_bars():
        return load_opened(memory, trust_remote_code, dtype=dtype), ""


def _available_bytes() -> int:
    """RAM that programs can have, the system's file cache included where it says so."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.is_file() else []
    stated = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return stated[0] if stated else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def randomise(model: Any, generator: torch.Generator) -> None:
    """Give a model's memories random values, in place: dense weights, and rows that are zero."""
    for name, parameter in model.named_parameters():
        found = layer_and_part(name)
        if found is not None and found[1] not in (TABLE, SCALE):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            scale = 0.5 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(noise * scale)
    for module in model.modules():
        if isinstance(module, MultiHeadEmbedding):
            shape = (_STAND_INS, module.embedding.embedding_dim)
            stand_ins = torch.randn(shape, generator=generator)
            # Where rows are looked up: a table may be too large to change, quantised, or a file.
            module.embedding.register_forward_hook(partial(_instead_of_zeros, stand_ins))


def _instead_of_zeros(stand_ins: Tensor, _: Any, ids: tuple[Tensor], rows: Tensor) -> Tensor:
    """Replace rows ``[..., E]`` that are zero by random ones, always the same for one row."""
    noise = stand_ins.to(rows)[ids[0].to(rows.device) % len(stand_ins)]
    return torch.where(rows.any(dim=-1, keepdim=True), rows, noise)


def _is_finite(ids: Tensor, model: Any) -> Verdict:
    finite = bool(torch.isfinite(plain(model, ids).logits).all())
    return finite, "logits are finite" if finite else "logits are NaN or infinite"


def _agree(way: Way, ids: Tensor, tolerance: float | None, model: Any) -> Verdict:
    """Compare a way of running with the plain one; without a tolerance, find gross mistakes."""
    pairs = way(model, ids)
    tokens = [[None if it.tokens is None else it.tokens.tolist() for it in pair] for pair in pairs]
    if any(own != expected for own, expected in tokens):
        return False, "other tokens than the plain run gives"
    difference = _largest((run.logits - expected.logits).abs() for run, expected in pairs)
    share = _COARSE if tolerance is None else tolerance
    bound = share * _largest(expected.logits.abs() for _, expected in pairs)
    detail = f"largest logit difference {difference:.3g}, allowed {bound:.3g}"
    same = "" if tokens[0] == [None, None] else "the same tokens; "
    if tolerance is None and difference > bound:
        return None, f"not judged, as quantised weights round by themselves: {detail}"
    return difference <= bound, same + detail


def _largest(tensors: Iterable[Tensor]) -> float:
    """The largest value; NaN if there is one."""
    return float(torch.stack([tensor.max() for tensor in tensors]).max())


def _judge(
    name: str, agree: Callable[[Any], Verdict], model: Any, base: Callable[[], Any]
) -> tuple[Check, bool]:
    """Run a check; what goes wrong with the base alone, too, and in the same way, is not judged.

    Returns:
        The check, and whether something was raised.
    """
    found, raised = _attempt(name, agree, model)
    if found.ok:
        return found, raised
    of_base, base_raised = _attempt(name, agree, base())
    if of_base.ok or base_raised != raised:
        return found, raised
    detail = f"not with the base alone either: {of_base.detail}"
    return replace(found, ok=None, detail=detail), raised


def _attempt(name: str, agree: Callable[[Any], Verdict], model: Any) -> tuple[Check, bool]:
    """Return the check, and whether something was raised."""
    try:
        return Check(name, *agree(model)), False
    except _FAILURES as error:
        if not is_about_files(error):
            raise
        return Check(name, False, f"it fails: {_first_line(error)}"), True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
