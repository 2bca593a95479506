"""The model card of a trained memory: how it was trained, and how well it does."""

import shlex
from collections.abc import Sequence
from typing import Any

from engram.addressing.addresses import Addresses
from engram.checkpoints.attach.model_card import layers_table
from engram.config.engram_config import EngramConfig
from engram.version import __version__


def training_card(
    name: str,
    hub: str | None,
    config: EngramConfig,
    addresses: Addresses,
    result: dict[str, Any],
    command: Sequence[str] | None,
    *,
    adapter: bool,
) -> str:
    """Write the card of a trained memory.

    Args:
        name: What people call the base.
        hub: Its id on the hub.
        config: The memory.
        addresses: Its constants.
        result: What ``engram train --json`` prints.
        command: The command that trained it; None for a call from Python.
        adapter: Whether the folder holds the memory alone.

    Returns:
        Markdown with the metadata that the hub reads.
    """
    metadata = f"base_model: {hub}\n" if hub else ""
    if hub and adapter:
        metadata += "base_model_relation: adapter\n"
    options, held_out = result["options"], result["held_out"]
    title = f"{name} with a trained Engram memory"
    if options["control"]:
        title = f"{name} with a control of an Engram memory: {options['control']}"
    load = f'engram.load("{hub or "path/to/base"}", "path/to/this/folder")'
    how = load if adapter else 'engram.load("path/to/this/folder")'
    use = f"import engram\n\nmodel = {how}"
    if options["control"] == "dense":
        use = "from engram.training import load_control\n\n"
        use += 'model = load_control("path/to/this/folder")'
    elif options["control"] == "none":
        use = "from transformers import AutoModelForCausalLM\n\n"
        use += 'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")'
    memory = f"{layers_table(config, addresses)}\n\nAddresses: `{addresses.fingerprint}`.\n\n"
    if options["control"] in ("dense", "none"):  # there is no memory in them
        memory = ""
    advice = ""
    if options["control"] is None:
        advice = """ A memory adds projections and biases, which
learn whatever its table does: compare with a control (`engram train --control frozen-random`)
before crediting the table."""
    lines = [f"| {setting} | {value} |" for setting, value in _settings(result)]
    trained = "" if command is None else f"\n```\n{shlex.join(command)}\n```\n"
    start, end, change = result["held_out_start"], held_out, result["difference"]
    return f"""---
library_name: transformers
{metadata}tags: [engram]
---

# {title}

{memory}## Training
{trained}
| setting | value |
|---|---|
{chr(10).join(lines)}

Trained with engram-toolkit {__version__}.

## Held out

{end["documents"]:,} documents that were not trained on, {end["tokens"]:,} counted tokens.

| | nats a token | bits a byte |
|---|---|---|
| before | {start["nats_per_token"]:.4f} | {start["bits_per_byte"]:.4f} |
| after | {end["nats_per_token"]:.4f} | {end["bits_per_byte"]:.4f} |

Difference {change["nats"]:+.4f} nats a token, 95 % interval {change["low"]:+.4f} to
{change["high"]:+.4f} (paired bootstrap over documents).{advice}

## Use

```python
{use}
```
"""


def _settings(result: dict[str, Any]) -> list[tuple[str, Any]]:
    options = result["options"]
    movement, touches = result["row_movement"], result["touches_per_row"]
    return [
        ("trained", options["train"]),
        ("control", options["control"] or "-"),
        ("text", f"{result['data']['documents']:,} documents, digest `{result['data']['sha256']}`"),
        ("steps", f"{result['steps']:,}"),
        ("tokens", f"{result['tokens']:,}"),
        ("tokens of a step", f"{result['tokens'] // max(1, result['steps']):,}"),
        ("window", options["context"]),
        ("learning rate", f"{options['lr']:g} (tables {options['table_lr']:g})"),
        ("optimiser of tables", options["table_optimizer"]),
        ("schedule", f"{options['schedule']}, warm-up {options['warmup']:.0%}"),
        ("gradients clipped to", options["max_grad_norm"]),
        ("seed", options["seed"]),
        ("bfloat16 autocast", "yes" if options["bf16"] else "no"),
        ("loss of the last steps", f"{result['train_nats']:.4f} nats a token"),
        ("rows touched", f"{result['rows_touched']:,}"),
        ("touches of a row", f"{touches:.1f} on average" if result["rows_touched"] else "-"),
        ("movement of rows", "-" if movement is None else f"{movement:.3f} of their start"),
    ]
