"""Compares the estimate of `engram report` with the memory that real runs take on a CPU.

Each run is a process of its own: resident memory after the imports, then its peak once a model with
a memory is loaded and trained, or generates, on one thread. Target: the estimate within 15 % of
the difference.

    python benchmarks/bench_memory.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from measured import Ratio, finish, parser_of

import engram
from engram.units import format_bytes

ASSETS = Path(os.environ.get("ENGRAM_ASSETS", "~/.cache/engram-toolkit/assets")).expanduser()
TARGET = 0.15
NEW_TOKENS = 16
_TRAINED = engram.ReportOptions(tp=0, mode="training", train="memory", batch=2, context=512)
RUNS = [
    _TRAINED,
    replace(_TRAINED, batch=4, context=256),
    replace(_TRAINED, train="all"),
    engram.ReportOptions(tp=0, batch=4, context=1024),
    engram.ReportOptions(tp=0, batch=1, context=2048),
]


def resident(line: str) -> int:
    """Return a size of this process in bytes: VmRSS is what is resident, VmHWM its peak."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(text.partition(f"{line}:")[2].split()[0]) * 1024


def work(folder: str, options: engram.ReportOptions) -> None:
    """Load the model, train it for three steps or generate, and print the memory that it took."""
    import torch

    import engram.hf
    from engram.tensor_names import is_memory

    torch.set_num_threads(1)
    # What the family's module imports is an import, too.
    __import__("transformers.models.llama.modeling_llama")
    before = resident("VmRSS")
    model = engram.load(folder)
    # Pages of the files that were read count as resident until they are copied.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    is_training, prompt = options.mode == "training", options.context or 0
    prompt -= 0 if is_training else NEW_TOKENS
    ids = torch.randint(0, model.config.get_text_config().vocab_size, (options.batch, prompt))
    if is_training:
        model.train()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(options.train == "all" or is_memory(name))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, foreach=False)
        for _ in range(3):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    else:
        model.generate(ids, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
    print(resident("VmHWM") - before)


def main() -> None:
    """Run every use; each is one round, since memory does not vary."""
    parser = parser_of(__doc__)
    parser.add_argument("--base", type=Path, default=ASSETS / "smollm2-135m")
    parser.add_argument("--run", type=int, help="only this use of --attached, in this process")
    parser.add_argument("--attached", help="a folder that engram attach wrote")
    arguments = parser.parse_args()
    if arguments.run is not None:
        work(arguments.attached, RUNS[arguments.run])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.attached or f"{name}/attached"
        if arguments.attached is None:
            engram.attach(arguments.base, "smollm2", folder)
        finish([compare(folder, number) for number in range(len(RUNS))], arguments.json)


def compare(folder: str, number: int) -> Ratio:
    """Run one use in a process of its own, and return how far the estimate is from it."""
    options = RUNS[number]
    command = [sys.executable, __file__, "--attached", folder, "--run", str(number)]
    measured = int(subprocess.run(command, check=True, capture_output=True).stdout.split()[-1])
    estimate = engram.report(folder, options=options).use.total_bytes
    use = f"training ({options.train})" if options.mode == "training" else "generating"
    return Ratio(
        f"memory-{number}",
        f"memory as `engram report` estimates it, {use}, {options.batch} x {options.context} "
        "tokens: distance from 1",
        "the measured peak",
        [abs(estimate / measured - 1)],
        at_most=TARGET,
        note=f"estimated {format_bytes(estimate)}, measured {format_bytes(measured)}",
    )


if __name__ == "__main__":
    main()
