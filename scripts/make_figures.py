"""Makes the pictures of the documentation again, from a real checkpoint, real text and real runs.

    python scripts/make_figures.py ASSETS RUNS FOLDER [NAME...]

ASSETS is what scripts/fetch_assets.py fetched, RUNS holds memory-0 and frozen-random-0 as
scripts/compare_controls.py trains them, and FOLDER is docs/figures. Every picture is what a
command of `FIGURES` writes; docs/gallery.md shows each beside its command. Pictures of pages are
taken by Chromium, and that of the run is drawn from the log in its folder. With names, only those
are made.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SENTENCES = (
    "Only Alexander the Great could tame the horse Bucephalus. By the way, the Milky Way is a "
    "galaxy, and the Princess of Wales lives in London. A hash table is a data structure; "
    "Transmission Control Protocol is a network protocol."
)


class Figure(NamedTuple):
    """A picture of the documentation.

    Attributes:
        name: Its file.
        command: The command that writes it, or the page that it is a picture of.
        page: The page that the command writes; empty where it writes the picture itself.
        width: Width of the window that the page is shown in, in pixels.
        height: Its height; 0 for the whole page.
        scheme: Its colours, ``light`` or ``dark``.
        focus: Number of the token that is looked at, on a page with tokens.
    """

    name: str
    command: str
    page: str = ""
    width: int = 1100
    height: int = 0
    scheme: str = "light"
    focus: int | None = None


_GATES = f"engram gates memory-0 {shlex.quote(SENTENCES)} --stats stats.json --html gates.html"
_EVAL = (
    "engram eval memory-0 --text foldoc.txt --against frozen-random-0 --seen foldoc.txt "
    "--tokens 4K --html eval.html"
)
_DEPTH = (
    "engram depth memory-0 --text foldoc.txt --against frozen-random-0 --tokens 2K --plot depth.png"
)
_TRAIN = (
    "engram train ./smollm2-135m -c smollm2 --text foldoc.txt -o memory-0 --steps 308 --batch 2 "
    "--evaluate-every 0 --plot training.png"
)
FIGURES = (
    Figure("size.png", "engram size --model ./smollm2-135m --plot size.png"),
    Figure("report.png", "engram report engram-27b --model gpt2 --plot report.png"),
    Figure(
        "statistics.png", "engram hash foldoc.txt -c memory-0 --cache-curve --plot statistics.png"
    ),
    Figure("allocation.png", "engram allocate --total 9.9B --active 993M --plot allocation.png"),
    Figure("gates.png", _GATES.partition(" --stats")[0] + " --plot gates.png"),
    Figure("gates-page.png", _GATES, "gates.html", height=900, focus=3),
    Figure("gates-page-dark.png", _GATES, "gates.html", height=900, scheme="dark", focus=3),
    Figure("gates-page-narrow.png", _GATES, "gates.html", width=400, height=900, focus=3),
    Figure("eval-page.png", _EVAL, "eval.html"),
    Figure("depth.png", _DEPTH),
    Figure("training.png", _TRAIN),
)
# Written first, for commands that read it.
_STATISTICS = "engram hash foldoc.txt -c memory-0 --json"


def main() -> None:
    """Make the pictures that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assets", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="files of FIGURES")
    given = parser.parse_args()
    figures = [it for it in FIGURES if not given.names or it.name in given.names]
    for source in sources(given.assets, given.runs):
        if not source.exists():
            parser.error(f"{source} is not there")
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        # Captions state commands with these short names.
        for source in sources(given.assets, given.runs):
            (place / source.name).symlink_to(source.resolve())
        if any("stats.json" in figure.command for figure in figures):
            (place / "stats.json").write_text(run(_STATISTICS, place))
        for figure in figures:
            print(f"== {figure.name}", flush=True)
            make(figure, place)
            shutil.copyfile(place / figure.name, given.folder / figure.name)
            if figure.page:
                shutil.copyfile(place / figure.page, given.folder / figure.page)


def sources(assets: Path, runs: Path) -> Iterator[Path]:
    """Yield the files and folders that commands name."""
    yield from (assets / name for name in ("smollm2-135m", "english.txt", "foldoc.txt"))
    yield from (runs / name for name in ("memory-0", "frozen-random-0"))


def make(figure: Figure, place: Path) -> None:
    """Make one picture in a folder."""
    if figure.command == _TRAIN:
        draw_run(figure, place)
    elif not (figure.page and (place / figure.page).is_file()):
        run(figure.command, place)
    if figure.page:
        photograph(figure, place)


def draw_run(figure: Figure, place: Path) -> None:
    """Draw a run from what its folder states, as the command that trained it does at its end."""
    from engram.checkpoints.read.attached_files import TRAINING_FILE, TRAINING_LOG_FILE
    from engram.pictures import plot_training, save_figure
    from engram.pictures.style import caption

    answer = json.loads((place / "memory-0" / TRAINING_FILE).read_text())
    lines = (place / "memory-0" / TRAINING_LOG_FILE).read_text().splitlines()
    drawn = plot_training({**answer, "log": [json.loads(line) for line in lines]})
    told = caption("A run of training.", shlex.split(figure.command))
    save_figure(drawn, place / figure.name, told)


def run(command: str, place: Path) -> str:
    """Run a command of the toolkit in a folder, and return its answer."""
    words = shlex.split(command)
    words = [sys.executable, "-m", "engram_cli", *words[1:]]
    return subprocess.run(words, cwd=place, check=True, text=True, stdout=subprocess.PIPE).stdout


def photograph(figure: Figure, place: Path) -> None:
    """Take a picture of a page, whole, with Chromium."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.chromium import chromium

    with chromium() as browser:
        tab = browser.tab()
        tab.look(figure.width, figure.height or 900, scheme=figure.scheme)
        tab.open(place / figure.page)
        if figure.focus is not None:
            tab.evaluate(f"document.querySelectorAll('#tokens bdi')[{figure.focus}].focus()")
        tab.rest(0.2)
        tab.screenshot(place / figure.name, whole=not figure.height)


if __name__ == "__main__":
    main()
