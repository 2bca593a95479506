"""Times the module's forward and backward pass against its matrix products.

One stream, B 4, T 512, hidden 768, memory 1024, two threads. The floor is three times the forward
matrix products (a backward pass has two for each), the target at most 2.0 times that. Rounds of all
parts are interleaved, and the ratio is the median over rounds, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from engram.addressing.primes import head_primes
from engram.config.engram_config import EngramConfig
from engram.nn import DemoModule
from engram.nn.functional import rms_norm, signed_sqrt_gate

BATCH, LENGTH, HIDDEN = 4, 512, 768
SUBJECT, TARGET = "module, sparse table gradient", 2.0


def build(sparse: bool) -> DemoModule:
    """Build a module with every weight random, and a table of 200k rows."""
    config = EngramConfig(
        hidden_size=HIDDEN,
        engram_vocab_size=50257,
        engram_table_size=[100514, 100514],
        n_embed_per_ngram=512,
        n_head_per_ngram=8,
        layer_ids=[1],
        pad_id=0,
    )
    module = DemoModule(config, head_primes(config)[1], sparse=sparse)
    for name, parameter in module.named_parameters():
        if "embedding" not in name:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.05)
    return module


def parts(module: DemoModule, dense: DemoModule) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name; `floor` is one forward pass of the matrix products."""
    config = module.config
    hidden = torch.randn(BATCH, LENGTH, HIDDEN, requires_grad=True)
    sizes = torch.tensor(module.multi_head_embedding.head_sizes)
    ids = (torch.rand(BATCH, LENGTH, config.n_columns) * sizes).long()
    memory = torch.randn(BATCH, LENGTH, config.memory_width, requires_grad=True)
    keys = torch.randn(BATCH, LENGTH, 1, HIDDEN, requires_grad=True)
    weights = [module.value_proj.weight.detach(), module.key_proj.weight.detach()]

    def both(forward: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            out = forward()
            torch.autograd.backward(out, out.detach())
            for tensor in (hidden, memory, keys, *module.parameters(), *dense.parameters()):
                tensor.grad = None

        return run

    def project() -> torch.Tensor:
        value, keys = module.value_proj(memory), module.key_proj(memory)
        return torch.add(value, keys)

    def gate() -> torch.Tensor:
        gates = signed_sqrt_gate(
            rms_norm(keys, module.norm_key, None),
            rms_norm(hidden[:, :, None], module.norm_query, None),
        )
        return gates[..., None] * keys

    def conv() -> torch.Tensor:
        inputs = rms_norm(keys, module.conv_norm, 1e-5).flatten(2)
        return F.silu(module.conv(inputs, None, None, None)[0])

    return {
        "floor": lambda: [F.linear(memory.detach(), weight) for weight in weights],
        SUBJECT: both(lambda: module(hidden, ids)),
        "look-up": both(lambda: module.multi_head_embedding(ids)),
        "projections": both(project),
        "gate": both(gate),
        "convolution": both(conv),
        "module, dense table gradient": both(lambda: dense(hidden, ids)),
    }


def main() -> None:
    """Print every part's time and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds over all parts (15)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (2)")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    runs = parts(build(sparse=True), build(sparse=False))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(options.rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if round_ >= 2:
                times[name].append(time.perf_counter() - start)
    print(
        f"B {BATCH}, T {LENGTH}, hidden {HIDDEN}, memory 1024, float32, {options.threads} threads"
    )
    floors = [3 * seconds for seconds in times.pop("floor")]
    print(f"{'3x forward matrix products':32}{statistics.median(floors) * 1e3:8.1f} ms")
    for name, seconds in times.items():
        ratio = statistics.median(t / f for t, f in zip(seconds, floors, strict=True))
        target = f"   (target: at most {TARGET})" if name == SUBJECT else ""
        print(f"{name:32}{statistics.median(seconds) * 1e3:8.1f} ms {ratio:6.2f}x{target}")


if __name__ == "__main__":
    main()
