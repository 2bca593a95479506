"""Training that is killed: checkpoints are whole, and --resume ends as an uninterrupted run."""

from __future__ import annotations

import json
import random
import re
import socket
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import engram
from support.forks import KILL, Forks, Outcome
from torture.writers import seen

pytestmark = pytest.mark.torture

_TIMES, _TIMES_OF_TWO = 10, 4
_SAVE_EVERY = 2
_WORDS = (
    *("train", "{}/attached", "--text", "{}/few.txt", "-o", "out", "--steps", "8"),
    *("--batch", "1", "--context", "16", "--save-every", str(_SAVE_EVERY)),
    *("--evaluate-every", "1", "--held-out-tokens", "20", "--set", "use_cpu=true"),
)


class Runs:
    """Runs of one command in one process or several, with what it writes when nobody disturbs it.

    Args:
        forks: A process to fork from for each process of a run.
        inputs: The folder of what is read.
        folder: The folder of the runs.
        more: More of the command's words.
    """

    def __init__(self, forks: list[Forks], inputs: Path, folder: Path, *more: str) -> None:
        self.forks, self.inputs, self.root, self.more = forks, inputs, folder, more
        text = [" ".join(f"w{(3 * i + k) % 17}" for k in range(9)) for i in range(40)]
        (inputs / "few.txt").write_text("\n\n".join(text))
        fresh = self.folder("fresh")
        done = self.run(fresh)
        assert [it.code for it in done] == [0] * len(forks), done[0].stderr
        self.events = [it.events or 0 for it in done]
        self.seconds = min(it.seconds for it in done)
        self.whole = without_times(seen(fresh))

    def folder(self, name: str) -> Path:
        made = self.root / name
        made.mkdir()
        (made / "mine.txt").write_text("mine")
        return made

    def run(self, cwd: Path, *more: str, harm: dict[int, Any] | None = None) -> list[Outcome]:
        """Run it in a folder; `harm` goes to the forks by their number."""
        words = [word.replace("{}", str(self.inputs)) for word in (*_WORDS, *self.more, *more)]
        env = {"ENGRAM_CACHE": str(cwd / "cache")}
        if len(self.forks) > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            env |= {"WORLD_SIZE": str(len(self.forks)), "LOCAL_WORLD_SIZE": str(len(self.forks))}

        def run_one(number: int) -> Outcome:
            mine = {**env, "RANK": str(number), "LOCAL_RANK": str(number)}
            alone = len(self.forks) == 1
            told = (harm or {}).get(number, {})
            return self.forks[number].run(words, cwd, env=env if alone else mine, **told)

        with ThreadPoolExecutor(len(self.forks)) as threads:
            return list(threads.map(run_one, range(len(self.forks))))

    def harm(self, chance: random.Random) -> dict[int, Any]:
        """Kill the whole run at a moment of chance, or one process before something it writes."""
        if chance.random() < 0.6:
            first = chance.randrange(len(self.forks)) if self.events[-1] else 0
            return {first: {"kill_at": chance.randint(1, self.events[first])}}
        when = chance.uniform(0.02, self.seconds)
        return {number: {"signals": [(when, KILL)]} for number in range(len(self.forks))}

    def check(self, cwd: Path, done: list[Outcome], harm: object) -> None:
        """Check what a killed run left."""
        said = done[0].stderr if done else ""  # empty where the run was over already
        assert all(it.code != 0 for it in done) or "out" in seen(cwd), (harm, said)
        assert not any(it.orphans or it.timed_out for it in done), harm
        found = without_times(seen(cwd))
        out = {name: what for name, what in found.items() if name.split("/")[0] == "out"}
        assert out in ({}, {name: self.whole[name] for name in out}), f"a torn result after {harm}"
        assert not out or len(out) == sum(name.split("/")[0] == "out" for name in self.whole)
        checkpoints = sorted(cwd.glob("out.checkpoints/checkpoint-*"))
        for checkpoint in checkpoints:
            state = json.loads((checkpoint / "training" / "state.json").read_text())
            assert checkpoint.name == f"checkpoint-{state['step']:08d}"
            if "disk" not in self.more:
                engram.load(self.inputs / "base", checkpoint)
        told = [int(it) for it in re.findall(r"Step (\d+) of", said)]
        if told and not out:
            saved = max((int(it.name.removeprefix("checkpoint-")) for it in checkpoints), default=0)
            assert saved > told[-1] - _SAVE_EVERY, harm

    def go_on(self, cwd: Path, harm: dict[int, Any] | None = None) -> list[Outcome]:
        """Run it again, as its errors say."""
        done = self.run(cwd, "--resume", harm=harm)
        if done[0].code == 4 and "no run to resume" in done[0].stderr:
            assert not list(cwd.glob("out.checkpoints/checkpoint-*"))
            done = self.run(cwd, harm=harm)
        elif done[0].code == 3 and "already" in done[0].stderr:
            done = self.run(cwd, "--resume", "--overwrite", harm=harm)
            if done[0].code == 4:  # the folder of the run is gone, as it is to be
                return []
        return done


def without_times(found: dict[str, str]) -> dict[str, str]:
    """Leave the file out that states seconds, and folders that every run makes."""
    return {
        name: "" if name.endswith("engram_training.json") else what
        for name, what in found.items()
        if not name.startswith("cache")
    }


def kill_and_go_on(runs: Runs, times: int, name: str) -> None:
    chance = random.Random(zlib.crc32(name.encode()))
    for number in range(times):
        cwd, harm = runs.folder(f"kill-{number}"), runs.harm(chance)
        done = runs.run(cwd, harm=harm)
        runs.check(cwd, done, harm)
        if chance.random() < 0.5:
            harm = runs.harm(chance)
            runs.check(cwd, runs.go_on(cwd, harm), harm)
        done = runs.go_on(cwd)
        assert [it.code for it in done if it.code] == [], (harm, done[0].stderr)
        assert without_times(seen(cwd)) == runs.whole, f"other files than without {harm}"


@pytest.mark.parametrize("tables", ["ram", "disk"])
def test_killed_training_goes_on_to_the_same_bytes(forks, inputs, tmp_path, tables):
    kill_and_go_on(Runs([forks], inputs, tmp_path, "--tables", tables), _TIMES, tables)


@pytest.fixture(scope="module")
def pair(forks: Forks) -> Iterator[list[Forks]]:
    with Forks() as other:
        yield [forks, other]


@pytest.mark.parametrize("tables", ["ram", "disk"])
def test_killed_training_in_two_processes_goes_on(pair, inputs, tmp_path, tables):
    runs = Runs(pair, inputs, tmp_path, "--tables", tables)
    kill_and_go_on(runs, _TIMES_OF_TWO, f"two {tables}")
