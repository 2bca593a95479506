"""Times how soon commands answer: whole processes, against one that only imports typer and rich.

Processes take turns, and the ratio is taken round by round.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from functools import partial

from measured import Ratio, finish, interleaved, parser_of, times_as_fast

IMPORTS = [sys.executable, "-c", "import typer, rich"]
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
COMMANDS = {
    "help": (["--help"], 1.5),
    "size": (["size", "--model", "gpt2", "--json"], 2.5),
    "config": (["config", "show", "gpt2"], 2.5),
}


def main() -> None:
    """Time every command, and compare."""
    arguments = parser_of(__doc__).parse_args()
    rounds = arguments.rounds * (1 if arguments.quick else 3)
    processes = {"imports": IMPORTS} | {
        key: [sys.executable, "-m", "engram_cli", *words] for key, (words, _) in COMMANDS.items()
    }
    runs = {key: partial(run, words) for key, words in processes.items()}
    seconds = interleaved(runs, rounds)
    finish(
        [
            Ratio(
                f"start-{key}",
                f"`engram {' '.join(words)}`",
                "a process that imports typer and rich",
                times_as_fast(seconds[key], seconds["imports"]),
                at_most=most,
                note=f"{statistics.median(seconds[key]):.3f} s",
            )
            for key, (words, most) in COMMANDS.items()
        ],
        arguments.json,
    )


def run(words: list[str]) -> None:
    """Run a process to its end."""
    # Installed packages keep their bytecode.
    environment = {key: value for key, value in os.environ.items() if key != _NO_BYTECODE}
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment)


if __name__ == "__main__":
    main()
