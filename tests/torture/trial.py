"""A writer in folders of its own, and what it writes when nobody disturbs it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.forks import Forks, Outcome
from torture.writers import Writer, seen


def output(found: Mapping[str, str]) -> dict[str, str]:
    """Of what `seen` found, the result alone."""
    results = ("out", "out.png", "out.html")
    return {name: what for name, what in found.items() if name.split("/")[0] in results}


class Trial:
    """A writer in folders of its own, with what it writes when nobody disturbs it."""

    def __init__(self, writer: Writer, forks: Forks, inputs: Path, folder: Path) -> None:
        self.writer, self.forks, self.inputs, self.root = writer, forks, inputs, folder
        fresh = self.folder("fresh")
        done = self.run(fresh)
        assert done.code == 0, done.stderr
        assert done.events, "the file system was changed"
        self.events, self.seconds = done.events, done.seconds
        self.whole, self.older = seen(fresh), dict[str, str]()
        if writer.older:
            old = self.folder("old")
            self.replace(old)
            self.older = seen(old)
            done = self.run(old, "--overwrite")
            assert done.code == 0, done.stderr
            assert output(seen(old)) == output(self.whole)

    def folder(self, name: str) -> Path:
        made = self.root / name
        made.mkdir()
        return made

    def run(self, cwd: Path, *more: str, **harm: Any) -> Outcome:
        words = self.writer.command(self.inputs, *more)
        return self.forks.run(words, cwd, env={"ENGRAM_CACHE": str(cwd / "cache")}, **harm)

    def replace(self, cwd: Path) -> None:
        words = self.writer.before(self.inputs)
        done = self.forks.run(words, cwd, env={"ENGRAM_CACHE": str(cwd / "cache")})
        assert done.code == 0, done.stderr

    def again(self, cwd: Path, chance: random.Random) -> None:
        """Run it again with flags of chance, until it says that it is done."""
        flags = [["--overwrite"]] if self.writer.overwrites else []
        if self.writer.resumes:
            flags += [["--resume"], ["--resume", "--overwrite"]]
        first = chance.choice([[], *flags])
        done = self.run(cwd, *first)
        if done.code == 3 and not first:
            # Refused: the whole result is there, or finished work, which only a flag throws away.
            words = done.stderr
            assert "already" in words or "unfinished" in words, words
            if "unfinished" in words:
                done = self.run(cwd, *chance.choice(flags))
            else:
                there = output(seen(self.forks.seen(cwd)))
                assert there in (output(self.whole), output(self.older))
                if there == output(self.whole):
                    return
                done = self.run(cwd, "--overwrite")
        if done.code == 3 and first == ["--resume"] and "--overwrite" in done.stderr:
            done = self.run(cwd, "--overwrite")
        assert done.code == 0, (first, done.stderr)
