"""The one style of all pictures, and the one module that imports matplotlib.

Pictures are drawn for a column of 3.5 inches, on figures of their own: nothing of pyplot's or of
the user's settings is read or changed. Series differ in lightness, line and marker, bars in
lightness and hatch, so that they differ in greyscale too.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.errors import MissingPackageError, UsageError
from engram.pictures.unseen import seen, shortened
from engram.storage.files import atomic_write, check_file
from engram.units import format_bytes, format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
# Width of a column of a paper, and of two, in inches.
COLUMN, PAGE = 3.5, 7.2
# From dark to light, in steps of at least 10 of CIE lightness.
COLORS = ("#14213d", "#9b2226", "#2176ae", "#e08214", "#8fc98b", "#f6dd8c")
_LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_HATCHES = ("", "////", "...", "\\\\\\\\", "xxx", "++")
# Colours of lines on white: neighbours differ by 15 or more of it.
_LINE_COLORS = (0, 2, 3, 1)
_DPI = 250
_CAPTION_POINTS = 5.5
# Width of a letter of the caption, in parts of its height, on average.
_LETTER = 0.53
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that bytes are equal everywhere
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "savefig.dpi": _DPI,
    "svg.hashsalt": "engram",  # ids that are the same in every run
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # dollars in names and in the text of users are dollars
}
# Metadata without dates, by format.
_DATES: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def check_plot(path: Path, overwrite: bool = False) -> None:
    """Check that a picture can be drawn and written, before the work for it begins.

    Args:
        path: The file to appear.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        UsageError: Its suffix is not one of a picture.
        InputError: Something is there that may not be replaced.
        MissingFileError: There is no folder to put it into.
        MissingPackageError: matplotlib is not installed.
    """
    _format(path)
    check_file(path, overwrite)
    if find_spec("matplotlib") is None:
        raise MissingPackageError("matplotlib", "pictures", "A picture")


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            f"A picture is a .png, .svg or .pdf file, got {path.name}.",
            "Give the file one of these endings.",
            path=str(path),
            suffix=suffix,
        )
    return suffix


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of all pictures: a decorator of functions that draw, or a context.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise MissingPackageError("matplotlib", "pictures", "A picture") from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user has set
        matplotlib.rcParams.update(_STYLE)
        yield


@styled()
def new_figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = COLUMN,
    height: float = 1.9,
    **subplots: Any,
) -> tuple[Figure, list[Axes]]:
    """Make a figure with axes in a grid.

    Args:
        rows: Rows of the grid.
        columns: Columns of the grid.
        width: Inches of the whole; `COLUMN` or `PAGE`.
        height: Inches of a row.
        **subplots: More arguments of matplotlib's ``Figure.subplots``, such as `sharex`.

    Returns:
        The figure, and its axes, row by row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, rows * height), layout="constrained", dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    return figure, list(axes.flat)


def line_style(number: int) -> dict[str, Any]:
    """Return colour, line and marker of a series, as arguments of ``Axes.plot``.

    Args:
        number: The series, from 0; their styles begin again after twelve.
    """
    return {
        "color": COLORS[_LINE_COLORS[number % len(_LINE_COLORS)]],
        "linestyle": _LINES[number % len(_LINES)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "markeredgewidth": 0.6,
    }


def nested_style(number: int) -> dict[str, Any]:
    """Return the `line_style` of series that may lie on one another: the first is the widest.

    Args:
        number: The series, from 0, in the order in which they are drawn.
    """
    wide = max(0, 2 - number)
    return {**line_style(number), "markersize": 2.5 + 1.5 * wide, "linewidth": 0.8 + 0.7 * wide}


def bar_style(number: int) -> dict[str, Any]:
    """Return colour and hatch of a part of a bar, as arguments of ``Axes.bar``.

    Args:
        number: The part, from 0; their styles begin again after thirty.
    """
    return {
        "color": COLORS[number % len(COLORS)],
        "hatch": _HATCHES[(number + number // len(COLORS)) % len(_HATCHES)],
        "edgecolor": "white" if number % len(COLORS) < 3 else "#14213d",
        "linewidth": 0.4,
    }


def label_of(name: str) -> str:
    """Return a name that users chose, such as a run's, as the label of a series.

    matplotlib leaves labels out of a legend that begin with an underscore; a space goes before it.
    """
    return f" {seen(name)}" if name.startswith("_") else seen(name)


def show_counts(axis: Any) -> None:
    """Write the numbers of an axis as 40K or 1.5B.

    Args:
        axis: ``Axes.xaxis`` or ``Axes.yaxis``, on a linear or logarithmic scale.
    """
    axis.set_major_formatter(lambda value, _: _count(value))
    axis.set_minor_formatter(lambda value, _: "")


def _count(value: float) -> str:
    return format_count(round(value)) if value == round(value) else f"{value:g}"


def show_shares(axis: Any) -> None:
    """Write the numbers of an axis, parts of a whole, in per cent.

    Args:
        axis: ``Axes.xaxis`` or ``Axes.yaxis``.
    """
    axis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")


def show_bytes(axis: Any) -> None:
    """Write the numbers of an axis as 512 MiB or 8 GiB, at round ones.

    Args:
        axis: ``Axes.xaxis`` or ``Axes.yaxis``, on a linear scale and with its limits set.
    """
    most = max(axis.get_view_interval())
    step = 2.0 ** math.floor(math.log2(max(1.0, most / 4)))
    axis.set_major_locator(_multiples(step))
    axis.set_major_formatter(lambda value, _: format_bytes(round(value)).replace(".00", ""))


def _multiples(step: float) -> Any:
    from matplotlib.ticker import MultipleLocator

    return MultipleLocator(step)


def caption(source: str, command: Sequence[str] = ()) -> str:
    """Return the text under a picture: its source, and the command that drew it.

    Args:
        source: A sentence on the origin of the numbers.
        command: The words of the command; of a long one, its beginning is shown.
    """
    import shlex

    from engram.version import __version__

    drawn = f"\n$ {shlex.join(map(shortened, command))}" if command else ""
    return f"{source} engram-toolkit {__version__}.{drawn}"


def save_figure(figure: Figure, path: Path, caption: str, *, overwrite: bool = False) -> None:
    """Write a figure with its caption under the axes; the file appears whole or not at all.

    The figure grows by the lines of the caption. Equal figures and captions give equal bytes.

    Args:
        figure: The figure; it has no caption yet.
        path: A .png, .svg or .pdf file.
        caption: Source of the numbers and the command, see `caption`.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        UsageError: The suffix is another.
        InputError: Something is there that may not be replaced.
    """
    suffix = _format(path)
    check_file(path, overwrite)
    letters = int(figure.get_figwidth() * 72 / (_CAPTION_POINTS * _LETTER)) - 1
    lines = [
        line
        for paragraph in caption.split("\n")
        for line in textwrap.wrap(seen(paragraph), letters, break_on_hyphens=False)
    ]
    stream = io.BytesIO()
    with styled(), warnings.catch_warnings():
        # A file's name may have letters that the font lacks; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        # In constrained layout, a label of the whole figure gets room of its own.
        label = figure.supxlabel(
            "\n".join(lines),
            fontsize=_CAPTION_POINTS,
            x=0.01,
            horizontalalignment="left",
            color="#444444",
            linespacing=1.3,
        )
        height = label.get_window_extent().height / figure.dpi
        figure.set_figheight(figure.get_figheight() + height)
        figure.savefig(stream, format=suffix[1:], metadata={**_DATES[suffix], "Title": lines[0]})
    with atomic_write(path) as file:
        file.write(stream.getvalue())
