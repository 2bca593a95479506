"""Starts the command line: Ctrl-C ends it with 130 even while it is imported."""

import os


def main() -> None:
    """Run the command line."""
    try:
        from engram_cli.main import main as run

        run()
    except KeyboardInterrupt:
        os.write(2, b"Interrupted.\n")
        os._exit(130)
