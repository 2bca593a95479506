"""Gemma 3n and 4: per-layer embeddings, a plain memory per token without any hash."""

from engram.checkpoints.published.family import Expected, Released, demand_settings
from engram.layouts.base import Naming
from engram.layouts.dialect import Dialect, Key
from engram.layouts.settings import MOST_LAYERS, Setting
from engram.storage.stored import Stored
from engram.tensor_names import TABLE

_LAYER = "layers.{layer}."
# Names of transformers' models/gemma3n and models/gemma4.
_RELEASED = Dialect(
    name="transformers",
    root="model.language_model.",
    own=False,
    names={
        TABLE: "embed_tokens_per_layer.weight",
        "projection": "per_layer_model_projection.weight",
        "norm": "per_layer_projection_norm.weight",
        "gate": _LAYER + "per_layer_input_gate.weight",
        "output": _LAYER + "per_layer_projection.weight",
        "output_norm": _LAYER + "post_per_layer_input_norm.weight",
    },
    scale="weight_scale",
    settings=(
        Setting("hidden", ("hidden_size",)),
        Setting("layers", ("num_hidden_layers",), high=MOST_LAYERS),
        Setting("width", ("hidden_size_per_layer_input",), default=256),
        Setting("rows", ("vocab_size_per_layer_input",), default=262_144),
    ),
)
FAMILY = Naming(
    name="gemma_ple",
    title="Gemma per-layer embeddings",
    dialects=(_RELEASED,),
    stated_by="width",
)


def describe(stored: Stored) -> Released:
    """Tell what a checkpoint of the family should hold."""
    hidden, layers, width, rows = demand_settings(_RELEASED.settings, stored).values()
    expected: dict[Key, Expected] = {
        Key(None, TABLE): Expected(shape=(rows, layers * width)),
        Key(None, "projection"): Expected(shape=(layers * width, hidden)),
        Key(None, "norm"): Expected(shape=(width,)),
    }
    shapes = {"gate": (width, hidden), "output": (hidden, width), "output_norm": (hidden,)}
    for layer in range(layers):
        expected |= {Key(layer, name): Expected(shape=shape) for name, shape in shapes.items()}
    return Released(
        family=FAMILY,
        stored=stored,
        reads=1,
        hash_rows={None: rows},
        expected=expected,
        note=f"no hash: a token reads its own row, {width} columns for each of {layers} layers",
    )
