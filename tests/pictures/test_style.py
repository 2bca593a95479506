"""The style of pictures: greyscale, settings that stay, and files that appear whole."""

from __future__ import annotations

import hashlib
import itertools
import sys
from xml.etree import ElementTree

import pytest

from engram.errors import InputError, MissingFileError, MissingPackageError, UsageError
from engram.pictures import style
from support.drawn import ink


def figure_of(words="a line"):
    with style.styled():
        figure, (axes,) = style.new_figure()
        axes.plot([0, 1], [0, 2], label=words, **style.line_style(0))
        axes.legend()
    return figure


def lightness(color):
    """CIE L* of a colour, 0 to 100."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return 116 * luminance ** (1 / 3) - 16


def test_colours_are_told_apart_in_greyscale():
    light = [lightness(color) for color in style.COLORS]
    assert all(later - earlier >= 10 for earlier, later in itertools.pairwise(light))
    colors = [lightness(style.line_style(number)["color"]) for number in range(4)]
    assert max(colors) < 70  # a line on white is seen
    assert all(abs(one - two) >= 15 for one, two in itertools.pairwise(colors))


@pytest.mark.parametrize("kind", [style.line_style, style.nested_style, style.bar_style])
def test_series_differ_in_more_than_their_colour(kind):
    styles = [tuple(sorted(kind(number).items(), key=str)) for number in range(12)]
    assert len(set(styles)) == 12
    plain = [tuple(it for it in each if it[0] not in ("color", "edgecolor")) for each in styles[:3]]
    assert len(set(plain)) == 3


def test_settings_of_the_user_are_neither_read_nor_changed():
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        figure = figure_of()
        assert dict(matplotlib.rcParams) == before
        (axes,) = figure.axes
        assert axes.get_facecolor() == (1, 1, 1, 1)
        assert axes.xaxis.label.get_size() == 7
    assert figure.get_figwidth() == style.COLUMN


@pytest.mark.parametrize("suffix", style.SUFFIXES)
def test_equal_pictures_are_equal_in_bytes(suffix, tmp_path):
    digests = set()
    for name in ("one", "two"):
        path = tmp_path / f"{name}{suffix}"
        style.save_figure(figure_of(), path, style.caption("A test.", ["engram", "size"]))
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    assert {path.suffix for path in tmp_path.iterdir()} == {suffix}  # nothing else is left


def test_the_caption_says_source_version_and_command(tmp_path):
    text = style.caption("Counted.", ["engram", "size", "--model", "a b"])
    assert text.startswith("Counted. engram-toolkit ")
    assert text.endswith("\n$ engram size --model 'a b'")
    figure = figure_of()
    style.save_figure(figure, tmp_path / "a.png", f"{text} $x$ 文 {'long ' * 60}")
    written = figure.get_supxlabel()
    assert "$ engram size --model 'a b' $x$ 文" in " ".join(written.split())
    renderer = figure.canvas.get_renderer()
    box = figure._supxlabel.get_window_extent(renderer)
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert ink(tmp_path / "a.png") > 0.01


def test_a_long_caption_takes_nothing_from_the_axes(tmp_path):
    heights = []
    for letters in (0, 5_000):
        figure = figure_of()
        text = style.caption("Counted. " + "long " * (letters // 5), ["engram", "gates"])
        style.save_figure(figure, tmp_path / f"{letters}.png", text)
        heights.append(figure.axes[0].get_position().height * figure.get_figheight())
    assert heights[1] == pytest.approx(heights[0], rel=0.05)
    assert heights[0] > 1
    command = style.caption("", ["engram", "gates", "word " * 1_000]).split("\n$ ")[1]
    assert command.startswith("engram gates 'word word")
    assert command.endswith("…'")
    assert len(command) < 140


@pytest.mark.parametrize("suffix", style.SUFFIXES)
@pytest.mark.parametrize("letter", ["\udcff", "\x1b", "\0", "\u202e"])
def test_letters_that_cannot_be_seen_are_drawn_as_marks(letter, suffix, tmp_path):
    name, path = f"m{letter}", tmp_path / f"a{suffix}"
    figure = figure_of(style.label_of(name))
    style.save_figure(figure, path, style.caption(f"Of {name}.", ["engram", name]))
    mark = f"m⟨U+{ord(letter):04X}⟩"
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == mark
    assert figure.get_supxlabel().count(mark) == 2
    if suffix == ".svg":
        ElementTree.parse(path)
    elif suffix == ".png":
        assert ink(path) > 0.01
    else:
        assert path.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["_run", "__", "run"])
def test_every_name_is_in_the_legend(name):
    legend = figure_of(style.label_of(name)).axes[0].get_legend()
    assert [text.get_text().strip() for text in legend.get_texts()] == [name]


def test_other_suffixes_and_what_is_there_are_refused(tmp_path):
    for name in ("a.gif", "a", "a.png.txt"):
        with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf"):
            style.check_plot(tmp_path / name)
        with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf"):
            style.save_figure(figure_of(), tmp_path / name, "")
    there = tmp_path / "there.PNG"
    there.write_bytes(b"mine")
    for act in (
        lambda: style.check_plot(there),
        lambda: style.save_figure(figure_of(), there, "A test."),
    ):
        with pytest.raises(InputError, match="already there"):
            act()
    assert there.read_bytes() == b"mine"
    style.check_plot(there, overwrite=True)
    style.save_figure(figure_of(), there, "A test.", overwrite=True)
    assert ink(there) > 0.01
    with pytest.raises(MissingFileError):
        style.check_plot(tmp_path / "no" / "a.png")


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"engram-toolkit\[pictures\]"):
        style.check_plot(tmp_path / "a.png")
    with pytest.raises(MissingPackageError, match=r"engram-toolkit\[pictures\]"):
        style.new_figure()


def test_axes_show_round_numbers_with_units():
    with style.styled():
        _, (axes,) = style.new_figure()
        axes.set_xlim(0, 5 * 2**30)
        style.show_bytes(axes.xaxis)
        assert [axes.xaxis.get_major_formatter()(at) for at in (0, 2**30, 3 * 2**29)] == [
            "0 B",
            "1 GiB",
            "1.50 GiB",
        ]
        assert 4 <= len(axes.xaxis.get_majorticklocs()) <= 12
        style.show_counts(axes.yaxis)
        counts = axes.yaxis.get_major_formatter()
        assert [counts(at) for at in (0, 10.0, 0.5, 40_000, -2.5e6)] == [
            "0",
            "10",
            "0.5",
            "40K",
            "-2.5M",
        ]
        style.show_shares(axes.yaxis)
        assert axes.yaxis.get_major_formatter()(0.125) == "12.5 %"
