"""Lets `python -m engram` stand for `engram`."""

from engram_cli.entry import main

if __name__ == "__main__":
    main()
