"""Lets `python -m engram_cli` stand for `engram`."""

from __future__ import annotations

from engram_cli.entry import main

if __name__ == "__main__":
    main()
