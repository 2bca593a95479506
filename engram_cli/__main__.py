"""Lets `python -m engram_cli` stand for `engram`."""

from engram_cli.entry import main

if __name__ == "__main__":
    main()
