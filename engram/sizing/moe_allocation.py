"""Splits the parameters of a mixture of experts between whole experts and a memory that is sized.

The base keeps fewer routed experts, as Engram-27B keeps 55 of 72 (arXiv 2601.07372, section 3), and
the memory gets the parameters of those that go, their rows of the routers included. Tables are read
and not multiplied; what the memory adds to a token's work is its dense parts.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import yaml

from engram.arguments import checked
from engram.backbone import Backbone, load_backbone
from engram.backbone.mixture import Mixture
from engram.config.config_file import one_line, write_config
from engram.errors import UsageError
from engram.sizing.allocation import BEST_RHO, KNOWN, SCHEMA, read_rho
from engram.sizing.expert_split import CURVE, ExpertSplit, at_rho, keeping
from engram.sizing.size import size
from engram.sizing.size_options import SizeOptions
from engram.sizing.sized_memory import Sizing
from engram.sizing.token_work import TokenWork
from engram.storage.files import atomic_write, check_file, check_parents

# Keys of ``engram size --json`` that tell about the memory.
_TOLD = (
    *("k_used", "engram_table_size", "rows_per_head", "row_width", "table_params", "dense_params"),
    *("total_params", "slack_params", "table_dtype", "table_bytes"),
)


@dataclass(frozen=True, kw_only=True, repr=False)
class MixtureAllocation:
    """Result of `allocate_mixture`.

    Attributes:
        base: The mixture of experts.
        chosen: The split that the memory is sized for.
        rho_from: Origin of its rho: given, computed from expert counts, or the paper's optimum.
        points: The splits of the curve, from pure experts down.
        sizing: The memory.
    """

    base: Backbone
    chosen: ExpertSplit
    rho_from: Literal["given", "experts", "paper"]
    points: tuple[ExpertSplit, ...]
    sizing: Sizing

    def __repr__(self) -> str:
        return (
            f"<MixtureAllocation: rho {float(self.chosen.split.rho):.4g}, {self.chosen.experts} "
            f"experts and {self.sizing.counts.total_params:,} parameters of memory>"
        )

    @property
    def mixture(self) -> Mixture:
        """The routed experts of the base as it is."""
        return _mixture_of(self.base)

    @property
    def base_settings(self) -> dict[str, Any]:
        """Keys of the base's config.json that change, with their new values."""
        return self.mixture.settings(self.chosen.experts)

    @property
    def total_params(self) -> int:
        """Parameters of the base with fewer experts and the memory."""
        return self.base.params - self.chosen.freed_params + self.sizing.counts.total_params

    @property
    def token(self) -> TokenWork:
        """The parameters that one token uses, before and after."""
        config, base = self.sizing.config, self.base
        rows = config.n_columns * len(self.sizing.counts.layers)
        head = base.vocab_size * base.hidden_size
        return TokenWork(
            base_params=base.active_params,
            router_params=self.mixture.router_params * (self.mixture.experts - self.chosen.experts),
            dense_params=self.sizing.counts.dense_params,
            rows=rows,
            row_params=rows * config.row_width,
            base_flops=2 * (base.active_params - base.embedding_params + head),
        )

    def write(self, folder: str | Path, *, overwrite: bool = False) -> tuple[Path, Path]:
        """Write the memory's config, and the base's settings that change, as YAML.

        Args:
            folder: Folder for ``memory.yaml`` and ``base.yaml``; made if it is not there.
            overwrite: Replace files that are there.

        Returns:
            The two files.

        Raises:
            InputError: Something is at a path that may not be replaced.
        """
        memory, base = check_emitted(folder, overwrite)
        Path(folder).mkdir(parents=True, exist_ok=True)
        title = one_line(
            f"rho {float(self.chosen.split.rho):.4g} of {self.base.name} by engram allocate"
        )
        write_config(memory, self.sizing.config, title=f"Memory for {title}", overwrite=overwrite)
        with atomic_write(base, "w") as file:
            file.write(
                f"# {self.chosen.experts} of {self.mixture.experts} routed experts: {title}\n"
                "# Keys of its config.json that change; its experts have to be trained or pruned.\n"
                f"{yaml.safe_dump(self.base_settings)}"
            )
        return memory, base

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram allocate --model --json`` prints."""
        base, mixture, sized = self.base, self.mixture, self.sizing.to_dict()
        return {
            "schema": SCHEMA,
            "P_tot": base.params - base.embedding_params,
            "P_act": base.active_params - base.embedding_params,
            "P_sparse": mixture.idle_params,
            **self.chosen.to_dict(),
            "rho_from": self.rho_from,
            "points": [point.to_dict() for point in self.points],
            "known": list(KNOWN),
            "model": base.name,
            "model_params": base.params,
            "params_kind": base.params_kind,
            "mixture": {key: value for key, value in vars(mixture).items() if key != "keys"},
            "base_settings": self.base_settings,
            "memory": {
                "config": self.sizing.config.to_dict(),
                "rows": self.sizing.counts.rows,
                **{key: sized[key] for key in _TOLD},
            },
            "total_params": self.total_params,
            "token": self.token.to_dict(),
        }


@checked(experts_kept=0)
def allocate_mixture(
    model: str | Path | Backbone,
    *,
    rho: Fraction | float | str | None = None,
    experts_kept: int | None = None,
    options: SizeOptions | None = None,
) -> MixtureAllocation:
    """Trade routed experts of a model for a memory of as many parameters.

    Args:
        model: A mixture of experts: a name of the built-in catalogue, a folder with a config.json,
            a hub id, or what `engram.load_backbone` returned.
        rho: Part of the sparse parameters that experts keep, 0 to 1; the nearest that whole experts
            realise is taken. The lower end of the paper's optimum, 0.75, by default.
        experts_kept: Routed experts that are kept, instead.
        options: Shape of the memory, such as its layers; its size follows from the experts.

    Returns:
        The curve over rho, the memory, and the config keys of the base that change; `to_dict()` is
        what ``engram allocate --model --json`` prints.

    Raises:
        UsageError: The model has no routed experts to trade, or the options state a size.
        InputError: rho is outside of 0 to 1, or there are no such experts to keep.
        DoesNotFitError: The experts that go have fewer parameters than the smallest memory.
        MissingFileError: There is no such model.

    Examples:
        >>> import engram
        >>> found = engram.allocate_mixture("qwen3-30b-a3b")
        >>> found.base_settings
        {'num_experts': 98}
        >>> found.base.params - found.total_params
        13696
    """
    base = model if isinstance(model, Backbone) else load_backbone(model)
    options = SizeOptions() if options is None else options
    if options.sizes or options.has_machine or options.corpus is not None:
        raise UsageError(
            "The size of the memory follows from the experts that go.",
            "Give its shape alone, such as layers and dim.",
        )
    mixture = _mixture_of(base)
    if rho is not None and experts_kept is not None:
        raise UsageError("--rho and expert counts exclude each other.", "Give one of them.")
    if experts_kept is None:
        chosen = at_rho(mixture, BEST_RHO[0] if rho is None else read_rho(rho))
    else:
        chosen = keeping(mixture, experts_kept)
    return MixtureAllocation(
        base=base,
        chosen=chosen,
        rho_from="experts" if experts_kept is not None else "paper" if rho is None else "given",
        points=tuple(at_rho(mixture, each) for each in CURVE),
        sizing=size(base, replace(options, budget=chosen.freed_params)),
    )


def check_emitted(folder: str | Path, overwrite: bool) -> tuple[Path, Path]:
    """Return the files that `MixtureAllocation.write` writes into a folder.

    Args:
        folder: The folder, which need not be there.
        overwrite: Whether files that are there may be replaced.

    Raises:
        InputError: Something is at a path that may not be replaced.
    """
    files = Path(folder) / "memory.yaml", Path(folder) / "base.yaml"
    check_parents(files[0])
    if Path(folder).is_dir():
        for file in files:
            check_file(file, overwrite)
    return files


def _mixture_of(base: Backbone) -> Mixture:
    """Return the routed experts of a model, of which some can go."""
    mixture = base.mixture
    if mixture is None:
        raise UsageError(
            f"{base.name} is a dense model: it has no routed experts to trade for a memory.",
            f"engram size --model {base.name} adds a memory to it; mixtures are qwen3-30b-a3b, "
            "mixtral-8x7b-v0.1, deepseek-v3, or a folder with one.",
            model=base.name,
        )
    if mixture.least >= mixture.experts:
        raise UsageError(
            f"{base.name} needs {mixture.least} routed experts to send a token to "
            f"{mixture.active}, and has {mixture.experts}: none can go.",
            f"engram size --model {base.name} adds a memory to it.",
            model=base.name,
        )
    return mixture
