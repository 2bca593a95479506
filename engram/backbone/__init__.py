"""Facts about base models without loading them: sizes, parameter counts, token ids."""

from engram.backbone.facts import Backbone
from engram.backbone.find_backbone import (
    catalogue_names,
    given_backbone,
    list_backbones,
    load_backbone,
)

__all__ = ["Backbone", "catalogue_names", "given_backbone", "list_backbones", "load_backbone"]
