"""Runs commands and calls on artefacts that were changed by chance, each in a process of its own.

    python tests/torture/mutate.py --cases 2000 --seed 0

A case fails when it ends otherwise than with 0, 2, 3, 4 or 5, or a call of the library raises an
error of another kind than its own; when it takes too long or too much memory; when a byte that
controls a terminal gets to stdout or stderr; when --json gives something else than JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
if "--only" not in sys.argv:
    os.environ.pop("ENGRAM_DEBUG", None)
sys.path[:0] = [str(folder) for folder in Path(__file__).parents[1:3]]  # tests, and engram itself

from engram.errors import EngramError  # noqa: E402
from engram_cli.main import COMMANDS, main  # noqa: E402
from engram_cli.output import silence_transformers  # noqa: E402
from torture.artefacts import OUT, PATH, Artefact, list_artefacts, write_artefacts  # noqa: E402
from torture.mutations import mutated  # noqa: E402

SECONDS = 20.0
# Modules that are imported once, before the forks.
_LIGHT = (
    *(f"engram_cli.{name}" for name in COMMANDS),
    *("numpy", "rich.table", "rich.console", "tokenizers", "numba", "sympy"),
    *("engram.checkpoints.read.inspect", "engram.checkpoints.read.lookup"),
    *("engram.checkpoints.attach.detach", "engram.checkpoints.convert.convert"),
    *("engram.checkpoints.verify.verify", "engram.corpus.verify.verify_corpus"),
    *("engram.corpus.counts.count_kernels", "engram.corpus.hash.hash_text"),
    *("engram.backbone", "engram.sizing.table_load"),
    *("engram.addressing.tokenizer", "engram.addressing.same_memory"),
    *("engram_cli.hash_text", "engram_cli.corpus_text"),
)
_HEAVY = (
    *("torch", "transformers", "engram.hf"),
    *("engram.corpus.hash.hashed_dataset", "engram.checkpoints.read.load_checkpoint"),
)
MOST_BYTES = 10**9
_FINE = (0, 2, 3, 4, 5)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Folders may be called anything.
_NAMES = (*["it"] * 5, "with blank", "\x1b[31mred", "\udcff\udc80", "\u202egnp", "-x")


@dataclass(frozen=True)
class Ending:
    """How a case ended.

    Attributes:
        code: Exit code; negative for a signal.
        seconds: How long it took.
        peak_bytes: Most memory of its process.
        stdout: What it printed.
        stderr: The same, of notes and errors.
    """

    code: int
    seconds: float
    peak_bytes: int
    stdout: bytes
    stderr: bytes


def faults(ending: Ending, as_json: bool) -> list[str]:
    """Say what is wrong with the way a case ended."""
    wrong = []
    if ending.code not in _FINE:
        wrong.append(f"it ended with {ending.code} after {ending.seconds:.1f} s")
    if ending.peak_bytes > MOST_BYTES or b"Out of memory" in ending.stderr:
        wrong.append(f"it took {ending.peak_bytes / 2**20:.0f} MiB")
    for name, data in (("stdout", ending.stdout), ("stderr", ending.stderr)):
        found = _CONTROL.search(data.decode("utf-8", "surrogateescape"))
        if found:
            wrong.append(f"{name} has {found[0]!r}")
    if as_json and ending.code == 0:
        wrong += [] if _is_json(ending.stdout) else ["stdout is not one JSON object"]
    elif as_json and ending.code in (2, 3, 4) and not _is_json(ending.stdout):
        last = ending.stderr.strip().rpartition(b"\n")[2]
        wrong += [] if _is_json(last) else ["neither stdout nor stderr ends with a JSON object"]
    return wrong


def _is_json(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


def in_a_process(action: Callable[[], object], seconds: float = SECONDS) -> Ending:
    """Run a function in a fork of this process, with its output caught.

    Args:
        action: The function; what it raises decides the exit code, see `_code_of`.
        seconds: When to kill it.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        with warnings.catch_warnings():  # newer Pythons warn of forks beside threads
            warnings.simplefilter("ignore")
            process = os.fork()
        if not process:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(_code_of(action))
        ended, usage, status = 0, None, 0
        while not ended and time.monotonic() - began < seconds:
            ended, status, usage = os.wait4(process, os.WNOHANG)
            if not ended:
                time.sleep(0.002)
        if not ended:
            os.kill(process, signal.SIGKILL)
            _, status, usage = os.wait4(process, 0)
        took = time.monotonic() - began
        out.seek(0)
        err.seek(0)
        peak = usage.ru_maxrss * 1024 if usage else 0
        return Ending(os.waitstatus_to_exitcode(status), took, peak, out.read(), err.read())


def _code_of(action: Callable[[], object]) -> int:
    limit = 8 * MOST_BYTES  # of addresses, which are more than memory
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), "r")
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2)
    )
    try:
        action()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except EngramError as error:
        print(repr(str(error)), file=sys.stderr)
        code = error.exit_code
    except OSError as error:
        code = 1 if error.errno is None else 3
        print(repr(error), file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


@dataclass(frozen=True)
class Case:
    """One change of one artefact, and one call that reads it.

    Attributes:
        number: Its number.
        artefact: The artefact.
        file: The file that is changed, relative to the artefact.
        call: The command line, or the function.
        folder: Name of the folder that the artefact is put into.
        as_json: Whether the command gets --json.
        is_heavy: Whether the call builds a model.
        random: Decides the change.
    """

    number: int
    artefact: Artefact
    file: Path
    call: list[str] | Callable[[Path], object]
    folder: str
    as_json: bool
    is_heavy: bool
    random: Random

    def __str__(self) -> str:
        name = str(self.call) if callable(self.call) else " ".join(self.call)
        flag = " --json" if self.as_json else ""
        return f"case {self.number}: {self.artefact.name}, {self.file}: {name}{flag}"

    def run(self, work: Path) -> Ending:
        """Change the artefact in a new folder and make the call."""
        place = work / f"{self.number}" / self.folder
        path = place / self.artefact.path.name
        place.mkdir(parents=True)
        if self.artefact.path.is_dir():
            shutil.copytree(self.artefact.path, path, symlinks=True)
        else:
            shutil.copyfile(self.artefact.path, path)
        file = path / self.file
        change = self.random.random()
        if change < 0.03 and path != file:
            file.unlink()
        elif change < 0.05:
            file.unlink()
            file.mkdir()
        else:
            file.write_bytes(mutated(file.read_bytes(), self.random))
        if callable(self.call):
            return in_a_process(lambda: self.call(path))
        known = {PATH: str(path), OUT: str(place / "out")}
        sys.argv = ["engram", *(known.get(word, word) for word in self.call)]
        sys.argv += ["--json"] if self.as_json else []
        return in_a_process(main)


def make_cases(
    artefacts: list[Artefact], cases: int, seed: int, heavy_every: int
) -> dict[int, Case]:
    """Choose artefacts, files and calls by chance; every heavy call is one of `heavy_every`."""
    made = {}
    for number in range(cases):
        random = Random(f"{seed}/{number}")
        is_heavy = number % heavy_every == 0
        artefact = random.choice([it for it in artefacts if it.heavy or not is_heavy])
        files = [Path()]
        if artefact.path.is_dir():
            found = sorted(path for path in artefact.path.rglob("*") if path.is_file())
            files = [path.relative_to(artefact.path) for path in found]
            # What says how the rest is to be read is changed as often as the rest.
            structure = [path for path in files if path.suffix == ".json"]
            files = random.choice((files, structure or files))
        call = random.choice(artefact.heavy if is_heavy else artefact.calls)
        made[number] = Case(
            number,
            artefact,
            random.choice(files),
            call,
            random.choice(_NAMES),
            not callable(call) and random.random() < 0.4,
            is_heavy,
            random,
        )
    return made


def torture(cases: int, seed: int, heavy_every: int, only: int | None = None) -> int:
    """Run cases and print those that fail; returns how many did."""
    began, failed = time.monotonic(), 0
    slowest, largest = 0.0, 0
    with tempfile.TemporaryDirectory(prefix="engram-torture-") as name:
        folder = Path(name)
        (folder / "made").mkdir()
        os.environ["ENGRAM_CACHE"] = str(folder / "cache")
        os.environ["HF_MODULES_CACHE"] = str(folder / "modules")
        # Forks of a process without torch take a fifth of the time.
        written = in_a_process(lambda: write_artefacts(folder / "made"), seconds=120)
        if written.code:
            raise SystemExit(written.stderr.decode(errors="replace"))
        made = make_cases(list_artefacts(folder / "made"), cases, seed, heavy_every)
        chosen = list(made.values()) if only is None else [made[only]]
        for is_heavy in (False, True):
            _import(_HEAVY if is_heavy else _LIGHT)
            for case in (case for case in chosen if case.is_heavy == is_heavy):
                ending = case.run(folder / "cases")
                wrong = faults(ending, case.as_json)
                slowest, largest = max(slowest, ending.seconds), max(largest, ending.peak_bytes)
                failed += bool(wrong)
                if wrong or only is not None:
                    _tell(case, ending, wrong, whole=only is not None)
                shutil.rmtree(folder / "cases" / str(case.number), ignore_errors=True)
    print(
        f"{failed} of {len(chosen)} failed, in "
        f"{time.monotonic() - began:.0f} s; the slowest took {slowest:.1f} s, the largest "
        f"{largest / 2**20:.0f} MiB"
    )
    return failed


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        import_module(module)
    if "numba" in modules:
        sys.modules["numba"].njit(lambda number: number)(
            1
        )  # the first compilation imports the rest of numba
    if "transformers" in modules:
        silence_transformers()  # its own colours and bars are not ours
    gc.freeze()  # or every fork copies what its first collection touches


def _tell(case: Case, ending: Ending, wrong: list[str], *, whole: bool) -> None:
    print(f"{case}: {'; '.join(wrong) or 'fine'} ({ending.code}, {ending.seconds:.1f} s)")
    lines = ending.stderr.decode(errors="replace").splitlines()
    for line in lines if whole else lines[-3:]:
        print(f"    {line[:300]!r}")


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heavy-every", type=int, default=10, help="cases to one that is heavy")
    parser.add_argument("--only", type=int, help="run one case, and show how it ends")
    given = parser.parse_args()
    return int(bool(torture(given.cases, given.seed, given.heavy_every, given.only)))


if __name__ == "__main__":
    sys.exit(_main())
