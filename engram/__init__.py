"""Engram memories for language models: sized, addressed, built, attached, checked and reported.

The names below are imported when they are first used, so that `import engram` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from engram.version import __version__ as __version__

if TYPE_CHECKING:
    from engram.addressing.addresses import Addresses
    from engram.addressing.hashing import Hasher
    from engram.addressing.tokenizer import EngramTokenizer
    from engram.backbone import Backbone, list_backbones, load_backbone
    from engram.checkpoints.attach.attach import attach
    from engram.checkpoints.attach.attach_plan import Attached
    from engram.checkpoints.attach.detach import Detached, detach
    from engram.checkpoints.attach.push import push_to_hub
    from engram.checkpoints.convert.convert import Converted, convert
    from engram.checkpoints.convert.gguf_repair import repair_gguf
    from engram.checkpoints.convert.gguf_repair_result import Repaired
    from engram.checkpoints.read.load_checkpoint import load
    from engram.checkpoints.read.lookup import TextLookup, look_up
    from engram.checkpoints.report.report import Report, report
    from engram.checkpoints.verify.verify import verify
    from engram.checks import Check, Checks
    from engram.config.config_file import write_config
    from engram.config.engram_config import EngramConfig
    from engram.config.templates import load_config, template_names
    from engram.corpus.building.build_corpus import build_corpus
    from engram.corpus.building.local_engine import WorkerLostError
    from engram.corpus.hash.hash_options import HashOptions
    from engram.corpus.hash.hash_text import hash_text
    from engram.corpus.hash.hashed_dataset import HashedDataset
    from engram.corpus.hash.hashed_text import HashedText
    from engram.corpus.results.stored_corpus import BuiltCorpus, StoredCorpus, describe_corpus
    from engram.corpus.text.text_options import TextOptions
    from engram.corpus.verify.verify_corpus import verify_corpus
    from engram.engines.constants import ExportedConstants, export_constants
    from engram.engines.golden import ExportedGolden, export_golden
    from engram.engines.stack_configs import ExportedConfig, export_config
    from engram.errors import (
        ConfigError,
        CorruptFileError,
        DependencyError,
        DoesNotFitError,
        EngramError,
        EngramWarning,
        InputError,
        LayoutError,
        MismatchError,
        MissingError,
        MissingFileError,
        MissingPackageError,
        NoError,
        UsageError,
    )
    from engram.nn import EngramModule, MultiHeadEmbedding, OffloadEmbedding
    from engram.sizing.allocation import Allocation, allocate
    from engram.sizing.check_config import ConfigVerdict, check_config
    from engram.sizing.describe_config import ConfigFacts, describe_config
    from engram.sizing.moe_allocation import MixtureAllocation, allocate_mixture
    from engram.sizing.new_config import new_config
    from engram.sizing.run_options import ReportOptions
    from engram.sizing.size import size
    from engram.sizing.size_options import SizeOptions
    from engram.sizing.sized_memory import Sizing

# By module: its public names.
_NAMES = {
    "engram.addressing.addresses": ("Addresses",),
    "engram.addressing.hashing": ("Hasher",),
    "engram.addressing.tokenizer": ("EngramTokenizer",),
    "engram.backbone": ("Backbone", "list_backbones", "load_backbone"),
    "engram.checkpoints.attach.attach": ("attach",),
    "engram.checkpoints.attach.attach_plan": ("Attached",),
    "engram.checkpoints.attach.detach": ("Detached", "detach"),
    "engram.checkpoints.attach.push": ("push_to_hub",),
    "engram.checkpoints.convert.convert": ("Converted", "convert"),
    "engram.checkpoints.convert.gguf_repair": ("repair_gguf",),
    "engram.checkpoints.convert.gguf_repair_result": ("Repaired",),
    "engram.checkpoints.read.load_checkpoint": ("load",),
    "engram.checkpoints.read.lookup": ("TextLookup", "look_up"),
    "engram.checkpoints.report.report": ("Report", "report"),
    "engram.checkpoints.verify.verify": ("verify",),
    "engram.checks": ("Check", "Checks"),
    "engram.config.config_file": ("write_config",),
    "engram.config.engram_config": ("EngramConfig",),
    "engram.config.templates": ("load_config", "template_names"),
    "engram.corpus.building.build_corpus": ("build_corpus",),
    "engram.corpus.building.local_engine": ("WorkerLostError",),
    "engram.corpus.hash.hash_options": ("HashOptions",),
    "engram.corpus.hash.hash_text": ("hash_text",),
    "engram.corpus.hash.hashed_dataset": ("HashedDataset",),
    "engram.corpus.hash.hashed_text": ("HashedText",),
    "engram.corpus.results.stored_corpus": ("BuiltCorpus", "StoredCorpus", "describe_corpus"),
    "engram.corpus.text.text_options": ("TextOptions",),
    "engram.corpus.verify.verify_corpus": ("verify_corpus",),
    "engram.engines.constants": ("ExportedConstants", "export_constants"),
    "engram.engines.golden": ("ExportedGolden", "export_golden"),
    "engram.engines.stack_configs": ("ExportedConfig", "export_config"),
    "engram.errors": (
        "ConfigError",
        "CorruptFileError",
        "DependencyError",
        "DoesNotFitError",
        "EngramError",
        "EngramWarning",
        "InputError",
        "LayoutError",
        "MismatchError",
        "MissingError",
        "MissingFileError",
        "MissingPackageError",
        "NoError",
        "UsageError",
    ),
    "engram.nn": ("EngramModule", "MultiHeadEmbedding", "OffloadEmbedding"),
    "engram.sizing.allocation": ("Allocation", "allocate"),
    "engram.sizing.check_config": ("ConfigVerdict", "check_config"),
    "engram.sizing.describe_config": ("ConfigFacts", "describe_config"),
    "engram.sizing.moe_allocation": ("MixtureAllocation", "allocate_mixture"),
    "engram.sizing.new_config": ("new_config",),
    "engram.sizing.run_options": ("ReportOptions",),
    "engram.sizing.size": ("size",),
    "engram.sizing.size_options": ("SizeOptions",),
    "engram.sizing.sized_memory": ("Sizing",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [
    "Addresses",
    "Allocation",
    "Attached",
    "Backbone",
    "BuiltCorpus",
    "Check",
    "Checks",
    "ConfigError",
    "ConfigFacts",
    "ConfigVerdict",
    "Converted",
    "CorruptFileError",
    "DependencyError",
    "Detached",
    "DoesNotFitError",
    "EngramConfig",
    "EngramError",
    "EngramModule",
    "EngramTokenizer",
    "EngramWarning",
    "ExportedConfig",
    "ExportedConstants",
    "ExportedGolden",
    "HashOptions",
    "HashedDataset",
    "HashedText",
    "Hasher",
    "InputError",
    "LayoutError",
    "MismatchError",
    "MissingError",
    "MissingFileError",
    "MissingPackageError",
    "MixtureAllocation",
    "MultiHeadEmbedding",
    "NoError",
    "OffloadEmbedding",
    "Repaired",
    "Report",
    "ReportOptions",
    "SizeOptions",
    "Sizing",
    "StoredCorpus",
    "TextLookup",
    "TextOptions",
    "UsageError",
    "WorkerLostError",
    "allocate",
    "allocate_mixture",
    "attach",
    "build_corpus",
    "check_config",
    "convert",
    "describe_config",
    "describe_corpus",
    "detach",
    "export_config",
    "export_constants",
    "export_golden",
    "hash_text",
    "list_backbones",
    "load",
    "load_backbone",
    "load_config",
    "look_up",
    "new_config",
    "push_to_hub",
    "repair_gguf",
    "report",
    "size",
    "template_names",
    "verify",
    "verify_corpus",
    "write_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'engram' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
