"""Compares the estimate of `engram report` with the memory that real runs take on a CPU.

Each run is a process of its own: resident memory after the imports, then its peak once a model with
a memory is loaded and trained, or generates, on one thread. Target: the estimate within 15 % of
the difference.

    python benchmarks/bench_memory.py ATTACHED_FOLDER
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import engram
from engram.units import format_bytes

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
    """Run every use, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="A folder that engram attach wrote.")
    parser.add_argument("--run", type=int, help="Only this use, in this process.")
    arguments = parser.parse_args()
    if arguments.run is not None:
        work(arguments.folder, RUNS[arguments.run])
        return
    print("| estimate / measured | run | estimated | measured |\n|---|---|---|---|")
    for number, options in enumerate(RUNS):
        command = [sys.executable, __file__, arguments.folder, "--run", str(number)]
        measured = int(subprocess.run(command, check=True, capture_output=True).stdout.split()[-1])
        estimate = engram.report(arguments.folder, options=options).use.total_bytes
        use = f"training ({options.train})" if options.mode == "training" else "generating"
        verdict = "" if abs(estimate / measured - 1) <= TARGET else " MISSED"
        print(
            f"| {estimate / measured:.2f}{verdict} | {use}, {options.batch} x {options.context} "
            f"tokens | {format_bytes(estimate)} | {format_bytes(measured)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
