"""Times the module's forward and backward pass against its matrix products.

One stream, B 4, T 512, hidden 768, memory 1024, float32, two threads. The floor is three times the
forward matrix products: a backward pass has two for each. Its parts are measured beside it.
Freed memory stays with the process, as in `engram train`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from measured import Ratio, finish, interleaved, parser_of, times_as_fast

from engram.addressing.primes import head_primes
from engram.config.engram_config import EngramConfig
from engram.nn import DemoModule
from engram.nn.fused_read import fused_read
from engram.training.freed_memory import keep_freed_memory

BATCH, LENGTH, HIDDEN = 4, 512, 768
MODULE = "module, sparse table gradient"
PROMISED = 1.25
QUICK_ROUNDS, ROUNDS = 5, 15


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

    def between() -> torch.Tensor:
        read = fused_read(keys[:, :, 0], keys, hidden[:, :, None], None, None, module._read_weights)
        if read is None:
            raise RuntimeError("the compiled passes cannot be loaded")
        return read[0]

    return {
        "floor": lambda: [F.linear(memory.detach(), weight) for weight in weights],
        MODULE: both(lambda: module(hidden, ids)),
        "look-up": both(lambda: module.multi_head_embedding(ids)),
        "projections": both(project),
        "between the projections": both(between),
        "module, dense table gradient": both(lambda: dense(hidden, ids)),
    }


def measure(rounds: int, threads: int) -> list[Ratio]:
    """Return the ratio of the module, and of its parts."""
    keep_freed_memory()
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    seconds = interleaved(parts(build(sparse=True), build(sparse=False)), rounds)
    floor = [3 * part for part in seconds.pop("floor")]
    return [
        Ratio(
            key=f"module-{name.partition(',')[0].replace(' ', '-')}"
            + ("-dense" if "dense" in name else ""),
            what=f"{name}: forward and backward",
            against="three times the module's forward matrix products",
            rounds=times_as_fast(taken, floor),
            at_most=PROMISED if name == MODULE else None,
            note=f"{1e3 * min(taken):.1f} ms at best, the products {1e3 * min(floor):.1f} ms",
        )
        for name, taken in seconds.items()
    ]


def main() -> None:
    """Parse the command line, and print the ratios."""
    parser = parser_of(__doc__)
    parser.set_defaults(rounds=ROUNDS)
    parser.add_argument("--threads", type=int, default=2, help="torch threads (2)")
    options = parser.parse_args()
    rounds = QUICK_ROUNDS if options.quick else options.rounds
    finish(measure(rounds, options.threads), options.json)


if __name__ == "__main__":
    main()
